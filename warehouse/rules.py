"""What a row and a day must satisfy: the one list from which quarantine and expectations derive.

Row rules send a row to quarantine, the rest of the day goes on. Day rules stop the day: it is not
published, and what was there before stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from warehouse.connection import quote_name
from warehouse.source import SourceSettings

MAX_NUMBER = 3e38  # what float32, in which detectors see numbers, can hold
MAX_AMOUNT = 1e10  # features sum amounts as int64 in ten-thousandths
FUTURE_TOLERANCE = "INTERVAL 1 DAY"  # clocks and time zones of sources differ


class ValidationSettings(BaseModel):
    """The limits of the day rules, and how far back a transaction id may not return."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_quarantined_share: float = Field(0.1, ge=0, le=1)
    max_row_count_ratio: float = Field(3.0, gt=1)
    max_null_share_rise: float = Field(0.2, ge=0, le=1)
    duplicate_window_days: int = Field(366, ge=0)


@dataclass(frozen=True)
class RowRule:
    """A row is set aside when ``broken`` (SQL over the staged row) is true.

    ``kind`` names the expectation that checks the same thing natively: a column never null.
    """

    id: str
    column: str
    broken: str
    meaning: str
    kind: Literal["not_null", "sql"] = "sql"


@dataclass(frozen=True)
class History:
    """What earlier published days looked like, for the day rules.

    ``typical_rows`` is None while there is no day to compare with.
    """

    typical_rows: float | None
    compared_days: int
    null_shares: dict[str, float]


@dataclass(frozen=True)
class DayRule:
    """A day is stopped when a row comes back from ``broken`` (SQL over ``{batch}``)."""

    id: str
    broken: str
    meaning: str


def row_rules(settings: SourceSettings, day: date) -> list[RowRule]:
    """Give the row rules in the order of trial; the first broken one is recorded."""
    rules = [
        RowRule(f"{name}_missing", name, f"{name} IS NULL", f"{name} is given", "not_null")
        for name in ("transaction_id", "account_id", "merchant_id")
    ]
    rules += _time_rules(settings, day) + _amount_rules()
    for name in ("latitude", "merchant_latitude", "longitude", "merchant_longitude"):
        if name in settings.columns.given():
            limit = 90 if name.endswith("latitude") else 180
            rules += [_readable(name), _within(name, limit)]
    for name, extra in settings.extra.items():
        if extra.type == "numeric":
            rules += [_readable(name), _finite(name)]
    if settings.label is not None:
        rules.append(_readable("is_fraud", "is 0, 1, true, false or empty"))
    return rules


def copy_rules() -> list[RowRule]:
    """Give the rules on transaction ids that come more than once; the first good row is kept."""
    return [
        RowRule(
            "transaction_id_published_on_another_day",
            "transaction_id",
            "_published_on IS NOT NULL",
            "the transaction is not already published on another day",
        ),
        RowRule(
            "transaction_id_repeated_in_file",
            "transaction_id",
            "_copy > 1 AND _file = _first_file",
            "the transaction comes once in a file",
        ),
        RowRule(
            "transaction_id_repeated_across_files",
            "transaction_id",
            "_copy > 1",
            "the transaction comes in one of the day's files only",
        ),
    ]


def judged_copy_rules() -> list[RowRule]:
    """Give the same rules over the table ``checked``, where the verdict is known."""
    return [replace(rule, broken=f"rule = '{rule.id}'") for rule in copy_rules()]


def day_rules(
    settings: SourceSettings,
    limits: ValidationSettings,
    history: History,
    unreadable_lines: int = 0,
) -> list[DayRule]:
    """Give the rules that stop a day: no rows, an unusual count, too much quarantined or empty.

    Lines that were no rows count as rows, and as quarantined.
    """
    share, lines = limits.max_quarantined_share, unreadable_lines
    rules = [
        DayRule("no_rows", "SELECT count(*) AS n FROM {batch} HAVING n = 0", "the day has rows"),
        DayRule(
            "quarantined_share",
            f"SELECT (count(rule) + {lines}) / nullif(count(*) + {lines}, 0) AS share "
            f"FROM {{batch}} HAVING share > {share}",
            f"at most {share:.0%} of the rows are quarantined",
        ),
    ]
    if history.typical_rows is not None:
        rules.append(_row_count_rule(limits, history, unreadable_lines))
    optional = [n for n in settings.columns.given() if n in history.null_shares]
    return rules + [
        _null_share_rule(n, limits, history)
        for n in (*optional, *settings.extra)
        if n in history.null_shares
    ]


def _time_rules(settings: SourceSettings, day: date) -> list[RowRule]:
    column = "occurred_at"
    zone = settings.time_zone
    return [
        RowRule(
            "occurred_at_missing",
            column,
            "occurred_at IS NULL AND occurred_at_text IS NULL",
            "occurred_at is given",
        ),
        _readable(column, "is a point in time"),
        RowRule(
            "occurred_at_in_future",
            column,
            f"occurred_at > now() + {FUTURE_TOLERANCE}",
            "the transaction has happened",
        ),
        RowRule(
            "occurred_at_outside_day",
            column,
            f"event_date <> DATE '{day}' AND occurred_at <= now() + {FUTURE_TOLERANCE}",
            f"the transaction happened on {day} in {zone}",
        ),
    ]


def _amount_rules() -> list[RowRule]:
    column = "amount"
    return [
        RowRule(
            "amount_missing", column, "amount IS NULL AND amount_text IS NULL", "amount is given"
        ),
        _readable(column, "is a number"),
        RowRule("amount_not_finite", column, "NOT isfinite(amount)", "amount is finite"),
        RowRule(
            "amount_not_positive",
            column,
            "amount <= 0 AND isfinite(amount)",
            "amount is more than 0",
        ),
        RowRule(
            "amount_too_large",
            column,
            f"amount > {MAX_AMOUNT} AND isfinite(amount)",
            f"amount is up to {MAX_AMOUNT:g}",
        ),
    ]


def _readable(name: str, kind: str = "is a number or empty") -> RowRule:
    broken = f"{quote_name(name)} IS NULL AND {quote_name(name + '_text')} IS NOT NULL"
    return RowRule(f"{name}_unreadable", name, broken, f"{name} {kind}")


def _finite(name: str) -> RowRule:
    column = quote_name(name)
    broken = f"NOT (isfinite({column}) AND abs({column}) <= {MAX_NUMBER})"
    return RowRule(f"{name}_not_finite", name, broken, f"{name} is up to {MAX_NUMBER:g}")


def _within(name: str, limit: int) -> RowRule:
    return RowRule(
        f"{name}_out_of_range", name, f"NOT abs({name}) <= {limit}", f"{name} is within ±{limit}°"
    )


def _row_count_rule(
    limits: ValidationSettings, history: History, unreadable_lines: int
) -> DayRule:
    typical = history.typical_rows or 0.0
    low, high = typical / limits.max_row_count_ratio, typical * limits.max_row_count_ratio
    return DayRule(
        "row_count",
        f"SELECT count(*) + {unreadable_lines} AS n FROM {{batch}} "
        f"HAVING n < {low:.0f} OR n > {high:.0f}",
        f"row count is between {low:,.0f} and {high:,.0f} "
        f"(median of {history.compared_days} comparable days: {typical:,.0f})",
    )


def _null_share_rule(name: str, limits: ValidationSettings, history: History) -> DayRule:
    limit = min(1.0, history.null_shares[name] + limits.max_null_share_rise)
    return DayRule(
        f"{name}_null_share",
        f"SELECT avg(({quote_name(name)} IS NULL)::INT) AS share "
        f"FROM {{batch}} HAVING share > {limit}",
        f"at most {limit:.0%} of the rows have no {name} (lately {history.null_shares[name]:.0%})",
    )


def first_broken(rules: Sequence[RowRule]) -> tuple[str, str]:
    """Write the SQL of a row's first broken rule (null: none), and of the offending text."""
    cases = " ".join(f"WHEN {rule.broken} THEN '{rule.id}'" for rule in rules)
    values = " ".join(f"WHEN {rule.broken} THEN {rule.column}_text" for rule in rules)
    return f"CASE {cases} END", f"CASE {values} END"
