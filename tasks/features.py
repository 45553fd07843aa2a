"""Point-in-time features, declared in ``feature_catalog``, computed by the modules beside it.

Laws (property-tested in ``tests/tasks/test_features.py``):

- A row's values depend on nothing later than the row and on no label known later than it. Rows of
  the very same instant count in the account windows (t - w, t], in no order; "history" is strictly
  earlier.
- Nothing looks back further than 30 days (merchant counts: 30 days before the label delay), so a
  call for one day with only ``lookback_days`` of history gives bit for bit what one for all days
  gives.
- The order of the input rows, and other accounts' and merchants' rows, do not matter; but for what
  known frauds at a merchant were to their accounts (``label_features.NEEDS_ACCOUNTS``).
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.feature_catalog import (
    BOOK_FEATURES,
    BOOSTED_FEATURES,
    FEATURES,
    LEAN_FEATURES,
    Feature,
    feature_names,
)
from tasks.label_features import (
    ACCOUNT_LABEL_CALCULATORS,
    MERCHANT_LABEL_CALCULATORS,
    NEEDS_GENUINE,
    KnownLabels,
    Statements,
    read_statements,
)
from tasks.transaction_features import (
    ACCOUNT_CALCULATORS,
    COORDINATES,
    HISTORY_DAYS,
    MERCHANT_CALCULATORS,
    Accounts,
    Ledger,
    Merchants,
    is_mapped,
)
from tasks.windows import DAY, NEVER, IntArray, to_fixed_point

__all__ = [
    "BOOK_FEATURES",
    "BOOSTED_FEATURES",
    "FEATURES",
    "KEY_COLUMNS",
    "LEAN_FEATURES",
    "Feature",
    "compute_features",
    "describe_markdown",
    "feature_names",
    "lookback_days",
]

OPTIONAL_COLUMNS = ("category", *COORDINATES)
Column = npt.NDArray[np.float32]

KEY_COLUMNS = (
    "event_date",
    "transaction_id",
    "occurred_at",
    "account_id",
    "merchant_id",
    "amount",
)


def lookback_days(label_delay_days: int) -> int:
    """Give the days of history before ``start`` that the features need."""
    return HISTORY_DAYS + label_delay_days + 1


def compute_features(
    transactions: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    start: date,
    end: date,
    label_delay_days: int,
    time_zone: str = "UTC",
    names: Iterable[str] | None = None,
) -> pl.DataFrame:
    """Describe each transaction of the days start to end by what was known at its moment.

    Args:
        transactions: Rows of ``lake.transactions`` from ``start`` - ``lookback_days`` to ``end``,
            in any order. Optional columns that are missing or all null count as not mapped.
        labels: Rows of ``lake.labels`` with ``known_at`` from ``start`` - ``lookback_days`` on,
            whenever their transactions were, in any order; later ones do no harm.
        start: First day to describe.
        end: Last day to describe.
        label_delay_days: Days after which a transaction's label is as a rule known.
        time_zone: Where a day and a night are.
        names: The features wanted; only these are computed. All by default.

    Returns:
        A row per transaction, sorted by ``event_date`` and ``transaction_id``: the key columns (of
        which ``amount`` is a feature, too, in float64), the features as Float32, null where not
        defined, and ``category`` if it is mapped.

    Raises:
        ValueError: if a name is not a feature's, the delay is negative or an amount is not finite.
    """
    wanted = _checked_names(names)
    if label_delay_days < 0:
        raise ValueError(f"label_delay_days must be at least 0, however: {label_delay_days}")
    is_target = pl.col("event_date").is_between(start, end)
    at = pl.col("occurred_at").dt.timestamp("us")
    times = transactions.select(at.filter(is_target)).to_series()
    first, last = times.min(), times.max()
    if not isinstance(first, int) or not isinstance(last, int):  # no transaction in these days
        return _assemble(transactions.clear(), {}, wanted, time_zone)
    delay = label_delay_days * DAY
    rows = transactions.select(
        *KEY_COLUMNS, *(name for name in OPTIONAL_COLUMNS if is_mapped(transactions, name))
    ).filter(
        at >= first - HISTORY_DAYS * DAY - delay, at <= last
    )  # what is known a moment later counts
    targets = rows.with_row_index("row").filter(is_target).sort("event_date", "transaction_id")
    since = first - HISTORY_DAYS * DAY
    ledger, frauds, genuine = _encode(
        rows, targets["row"].to_numpy(), _known_statements(labels, rows, (since, last), wanted)
    )
    with ThreadPoolExecutor(2) as pool:  # NumPy and Polars release the GIL
        by_account = pool.submit(_account_columns, ledger, delay, (frauds, genuine), wanted)
        by_merchant = pool.submit(_merchant_columns, ledger, delay, (frauds, genuine), wanted)
        columns = by_account.result() | by_merchant.result()
    return _assemble(targets, columns, wanted, time_zone)


def _checked_names(names: Iterable[str] | None) -> list[str]:
    everything = feature_names()
    if names is None:
        return list(everything)
    names = list(names)
    unknown = sorted(set(names) - set(everything))
    if unknown:
        raise ValueError(f"names must be features of tasks.features.FEATURES, however: {unknown}")
    return names


def _known_statements(
    labels: pl.DataFrame, rows: pl.DataFrame, span: tuple[int, int], wanted: list[str]
) -> pl.DataFrame:
    if not set(wanted) & set(feature_names(uses_labels=True)):
        labels = labels.clear()
    all_labels = not NEEDS_GENUINE.isdisjoint(wanted)
    return read_statements(labels, rows, since=span[0], until=span[1], all_labels=all_labels)


def _encode(
    rows: pl.DataFrame, target_rows: npt.NDArray[np.uint32], known: pl.DataFrame
) -> tuple[Ledger, Statements, Statements]:
    """Turn frames into arrays with common entity codes; split the statements by what they say."""
    entities = pl.concat([frame.select("account_id", "merchant_id") for frame in (rows, known)])
    codes = entities.select(pl.all().cast(pl.Utf8).cast(pl.Categorical).to_physical())
    accounts, merchants = (column.cast(pl.Int64).to_numpy() for column in codes)
    n = rows.height
    slots = np.full(n, -1, np.int64)
    slots[target_rows] = np.arange(len(target_rows))
    ledger = Ledger(
        times=rows["occurred_at"].dt.timestamp("us").to_numpy(),
        amounts=to_fixed_point(rows["amount"].cast(pl.Float64).to_numpy()),
        accounts=accounts[:n],
        merchants=merchants[:n],
        n_accounts=int(accounts.max()) + 1,
        n_merchants=int(merchants.max()) + 1,
        slots=slots,
        frame=rows,
    )
    own = _own_transactions(known, rows)
    times: tuple[IntArray, IntArray] = (known["known"].to_numpy(), known["replaced"].to_numpy())
    arrays = (*times, accounts[n:], merchants[n:], *own)
    is_fraud = known["is_fraud"].to_numpy()
    frauds = Statements(*(array[is_fraud] for array in arrays))
    return ledger, frauds, Statements(*(array[~is_fraud] for array in arrays))


def _own_transactions(known: pl.DataFrame, rows: pl.DataFrame) -> tuple[IntArray, IntArray]:
    """Give when each statement's own transaction was (-NEVER if not among the rows), and its amount."""
    own = rows.filter(pl.col("transaction_id").is_in(known["transaction_id"].implode())).select(
        "transaction_id", at=pl.col("occurred_at").dt.timestamp("us"), spent="amount"
    )
    joined = known.select("transaction_id").join(
        own, on="transaction_id", how="left", maintain_order="left"
    )
    spent = joined["spent"].cast(pl.Float64).fill_null(0.0)
    return joined["at"].fill_null(-NEVER).to_numpy(), to_fixed_point(spent.to_numpy())


def _account_columns(
    ledger: Ledger, delay: int, statements: tuple[Statements, Statements], wanted: list[str]
) -> dict[str, Column]:
    own = [name for name in wanted if name in ACCOUNT_CALCULATORS]
    labelled = [name for name in wanted if name in ACCOUNT_LABEL_CALCULATORS]
    if not own + labelled:
        return {}
    view = Accounts(ledger, delay)
    known = KnownLabels(*statements, view)
    put = view.rows.in_output_order
    columns = {name: put(ACCOUNT_CALCULATORS[name](view)) for name in own}
    return columns | {name: put(ACCOUNT_LABEL_CALCULATORS[name](view, known)) for name in labelled}


def _merchant_columns(
    ledger: Ledger, delay: int, statements: tuple[Statements, Statements], wanted: list[str]
) -> dict[str, Column]:
    own = [name for name in wanted if name in MERCHANT_CALCULATORS]
    labelled = [name for name in wanted if name in MERCHANT_LABEL_CALCULATORS]
    if not own + labelled:
        return {}
    view = Merchants(ledger, delay)
    known = KnownLabels(*statements, view)
    put = view.rows.in_output_order
    columns = {name: put(MERCHANT_CALCULATORS[name](view)) for name in own}
    return columns | {
        name: put(MERCHANT_LABEL_CALCULATORS[name](view, known)) for name in labelled
    }


def _assemble(
    targets: pl.DataFrame, columns: dict[str, Column], wanted: list[str], time_zone: str
) -> pl.DataFrame:
    """Put the keys, the wanted features and the category together; empties ``columns``."""
    local = pl.col("occurred_at").dt.convert_time_zone(time_zone)
    calendar = {
        "is_weekend": (local.dt.weekday() >= 6).cast(pl.Float32),
        "is_night": (local.dt.hour() <= 6).cast(pl.Float32),
    }
    features: list[pl.Expr | pl.Series] = [
        calendar[name].alias(name)
        if name in calendar
        else pl.Series(name, columns.pop(name, []), pl.Float32, nan_to_null=True)
        for name in wanted
        if name != "amount"
    ]
    category = ["category"] if is_mapped(targets, "category") else []
    return targets.select(*KEY_COLUMNS, *features, *category)


def describe_markdown() -> str:
    """Write the declared features as Markdown, the content of ``docs/features.md``."""
    lines = [
        "# Features",
        "",
        "Generated from `tasks/feature_catalog.py` by `make docs`; do not edit.",
        "",
        "Each value is what was known at the moment t of the transaction. Account windows of w",
        "days are (t - w, t], rows of the same instant included; what is called earlier is",
        "strictly earlier. Merchant counts end one label delay before t. A label counts from its",
        "`known_at` on; the newest statement holds. Nothing looks back further than 30 days",
        "(merchant counts: 30 days before the label delay).",
        "Null means not defined: no history, or the column is not mapped.",
        "",
        "| feature | group | unit | labels | sets | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for feature in FEATURES:
        sets = [
            label
            for label, names in (("book", BOOK_FEATURES), ("lean", LEAN_FEATURES))
            if feature.name in names
        ]
        uses = "yes" if feature.uses_labels else "no"
        lines.append(
            f"| `{feature.name}` | {feature.group} | {feature.unit} | {uses} | {', '.join(sets)} "
            f"| {feature.meaning} |"
        )
    return "\n".join([*lines, ""])
