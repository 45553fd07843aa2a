"""A proposed mapping of the user's source, and the commented nightwarden.toml that says it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

from warehouse.source import ColumnMapping
from warehouse.source_files import escape_path

DELAY_DAYS = 7  # of the Fraud Detection Handbook; the bank's own differs
PRIVATE = "(private)"
MAX_CATEGORIES = 1000
ExtraType = Literal["numeric", "categorical"]

MEANINGS = {
    "transaction_id": "unique",
    "occurred_at": "when the payment happened",
    "account_id": "the card, account or customer that paid",
    "merchant_id": "the merchant or terminal that was paid",
    "amount": "more than 0",
    "currency_code": "three letters (ISO 4217)",
    "category": "kind of merchant",
    "latitude": "where the payer lives or paid, in degrees",
    "longitude": "where the payer lives or paid, in degrees",
    "merchant_latitude": "where the merchant is, in degrees",
    "merchant_longitude": "where the merchant is, in degrees",
}

HEAD = """\
# Nightwarden's settings, proposed by `nightwarden init` from {n_files} file(s){span}.
# Lines that begin with # and a key, without a space between, are switched off: they show a
# default, or an example. Paths are relative to the folder of this file. Any key can also be set
# from outside: NIGHTWARDEN_QUEUE__CAPACITY=50 overrides [queue] capacity.
"""

SOURCE = """
[source]
# csv, parquet, or postgres (then a table in place of path).
format = {format}
# Where the files lie. {{date}} stands for the day, as in 2018-04-01; {{date:%Y%m%d}} writes
# 20180401; * stands for any name.
path = {path}
# The column (or "sql: expression") that holds the day, where path names none.
{date_column}
# A PostgreSQL table in place of path; its connection is better given as NIGHTWARDEN_SOURCE_DSN.
#table = "public.transactions"
#dsn = "postgresql://reader@host/database"
# How many minutes a scheduled night waits for its day's file.
#wait_minutes = 0
# How CSV files are written; encoding is utf-8, utf-16 or latin-1.
{off}delimiter = {delimiter}
{off}quote = {quote}
{off}header = {header}
{off}encoding = {encoding}
# The zone of times that carry none, and the zone in which a day begins at midnight.
time_zone = "UTC"
# Columns replaced by keyed pseudonyms while they are read: card numbers and other account names.
pseudonymise = {pseudonymise}
# Columns that are never kept: personal data, and what tells the fraud.
drop = {drop}
"""

COLUMNS = """
# Which source column is what: its name, or "sql: expression" (DuckDB's SQL) where it must be
# rewritten. A row whose value cannot be read goes to quarantine.
[source.columns]
"""

EXTRA = """
# Further columns to keep, as NAME = { column = "SOURCE", type = "numeric" or "categorical" }.
# Choose only what is known when the payment happens.
[source.extra]
"""

LABEL = """
# The fraud label (0/1, true/false) and after how many days it is known: nothing uses it earlier.
{off}[source.label]
{off}column = {column}
{off}delay_days = {delay}
"""

REST = """
[warehouse]
# Folder of the lake, the review queue and the models.
#path = "warehouse-data"
# What several machines share: a PostgreSQL catalog, and a folder or object store for the files.
# A password belongs into the environment, as the whole NIGHTWARDEN_WAREHOUSE__CATALOG.
#catalog = "postgresql://nightwarden@db.example/lake"
#data = "s3://bucket/lake"
# DuckDB's threads (0: one per core), and its memory before it spills to disk.
#threads = 0
#memory_limit = "2GiB"

# Limits that stop a day: it is not published, and what was there before stays.
[validation]
# Largest share of a day's rows that may go to quarantine.
#max_quarantined_share = 0.1
# How many times more or fewer rows than on comparable days.
#max_row_count_ratio = 3.0
# How much more of a column may be empty than lately.
#max_null_share_rise = 0.2
# For how many days, before and after, a transaction id may not come again.
#duplicate_window_days = 366

[train]
# Days of transactions to train on; the last held_out_days of them set calibration and threshold.
#history_days = 70
#held_out_days = 14
# The detectors: an example, in place of all. Their weights, where not the default, and whether
# weights are learned from known frauds, once there are enough, or stay fixed.
#members = ["gaussian", "nearest_neighbours", "vae"]
#weights = {}
#weighting = "learned"
# What the detectors see: an example, in place of the default set. What one of them sees instead.
#features = ["amount", "amount_to_account_mean_30d"]
#member_features = {}
# Training rows, about; more are sampled down.
#max_rows = 300000
#seed = 0

[train.ensemble]
# Boosted trees that learn from labels: auto (they join where they win), stacked or unsupervised.
#mode = "auto"
# What they see: an example, in place of the default set. Whether they see the members' scores, too.
#features = ["amount", "amount_to_account_mean_30d"]
#member_scores = false
# Least share of the capacity kept for what only the members find.
#reserved_share = 0.1

[labels]
# Days until what is not labelled fraud counts as genuine, where that is not the label delay.
#mature_after_days = 30

[queue]
# Alerts a day that the analysts can review, at most.
#capacity = 100
# A queue that several machines share; with a password as NIGHTWARDEN_QUEUE__DATABASE.
#database = "postgresql://nightwarden@db.example/queue"
# Random transactions below the threshold that are queued beside them, as a share of the capacity.
#audit_share = 0.02
# From where on is flagged: capacity, false_positives, score or cost; the last three need their key.
#threshold = "capacity"
#false_positives = 20
#least_score = 4.0
#review_cost = 5.0

[evaluate]
# Columns whose values are judged apart; where bands of amounts begin; draws for an interval.
#segments = []
#amount_bands = [10.0, 50.0, 100.0, 500.0]
#resamples = 1000

[promotion]
# What the lower end of a challenger's gain in average precision must exceed.
#least_gain = 0.0
# Whether nights also store the challenger's scores, which are never queued.
#shadow = false

[mlflow]
# An MLflow server that several machines share, for example on a GPU worker and a desk.
#tracking_uri = "https://mlflow.example"
# Where models lie, if that is not for the server to say.
#artifacts = "s3://bucket/models"

[desk]
# Where `nightwarden desk` listens, and the host names by which browsers ask for it.
#host = "127.0.0.1"
#port = 8050
#names = ["127.0.0.1", "localhost"]
# An amount above which a second analyst must confirm a verdict.
#second_above = 1000.0
# Minutes for which a claim holds, and after which an unused session ends; every one ends at last.
#claim_minutes = 15
#idle_minutes = 30
#session_hours = 12
# PEM files, to serve TLS itself; or a proxy's header that names who is signed in, and its address.
#tls_certificate = "desk.pem"
#tls_key = "desk.key"
#trusted_header = "X-Forwarded-User"
#trusted_proxies = ["10.0.0.1"]
# Who is told of each change; NIGHTWARDEN_WEBHOOK_SECRET signs what is sent.
#webhooks = [{name = "cases", url = "https://cases.example/hook"}]

[run]
# auto (a GPU where there is one), cpu or cuda.
#device = "auto"
# On a GPU: whether a seed gives the same weights each time; slower. A processor always does.
#deterministic = false
# Days that a backfill handles, or members that a training fits, at a time.
#workers = 2
# Processor threads of a network. The weights of one seed may differ with their number.
#threads = 1
# How far back, in days, a scheduled night looks for nights that were missed.
#catch_up_days = 14
"""


@dataclass(frozen=True)
class Proposal:
    """What the files seem to hold: everything that ``[source]`` needs, and what to look at.

    ``path`` is absolute. ``seen`` gives each source column's type and an example, except of
    private columns; ``suggested`` the columns that may be kept as extra ones.
    """

    format: Literal["csv", "parquet"]
    path: str
    columns: dict[str, str]
    date_column: str | None = None
    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    encoding: str = "utf-8"
    extra: dict[str, tuple[str, ExtraType]] = field(default_factory=dict)
    label: tuple[str, int] | None = None
    pseudonymise: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)
    suggested: dict[str, tuple[str, ExtraType]] = field(default_factory=dict)
    first_day: date | None = None
    last_day: date | None = None
    n_files: int = 0


def extra_name(column: str, taken: Iterable[str]) -> str:
    """Make a free name for an extra column: lower case, letters, digits and ``_``.

    Example:
        >>> extra_name("Stadt (Kunde)", {"stadt_kunde"})
        'stadt_kunde_2'
    """
    plain = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")[:50] or "column"
    name = plain if plain[0].isalpha() else f"column_{plain}"
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def write_config(proposal: Proposal, *, folder: Path) -> str:
    """Write the commented nightwarden.toml for a proposal.

    Args:
        proposal: What ``inspect_source`` found.
        folder: Where the file will lie; a source under it gets a relative path.

    Returns:
        TOML that ``Settings.read`` accepts.
    """
    span = ""
    if proposal.first_day and proposal.last_day:
        span = f", {proposal.first_day} to {proposal.last_day}"
    notes = [f"# Please look at: {_comment(note)}" for note in proposal.notes]
    head = HEAD.format(n_files=proposal.n_files, span=span) + "".join(f"{n}\n" for n in notes)
    parts = [_source_text(proposal, folder), COLUMNS, *_column_lines(proposal)]
    parts += [EXTRA, *_extra_lines(proposal)]
    column, delay = proposal.label or ("YOUR_LABEL", DELAY_DAYS)
    off = "" if proposal.label else "#"
    parts.append(LABEL.format(off=off, column=_toml(column), delay=delay))
    return head + "".join(parts) + REST


def _source_text(proposal: Proposal, folder: Path) -> str:
    day = proposal.date_column
    example = proposal.columns.get("occurred_at", "YOUR_COLUMN")
    return SOURCE.format(
        format=_toml(proposal.format),
        path=_toml(_relative_path(proposal.path, folder)),
        date_column=f"date_column = {_toml(day)}" if day else f"#date_column = {_toml(example)}",
        off="" if proposal.format == "csv" else "#",
        delimiter=_toml(proposal.delimiter),
        quote=_toml(proposal.quote),
        header=_toml(proposal.header),
        encoding=_toml(proposal.encoding),
        pseudonymise=_toml(list(proposal.pseudonymise)),
        drop=_toml(list(proposal.drop)),
    )


def _relative_path(path: str, folder: Path) -> str:
    for root in (str(folder.absolute()), str(folder.resolve())):
        # A folder with *, [ or { in its name must stay escaped, so the path stays absolute there.
        if escape_path(root) == root and path.startswith(root.rstrip("/") + "/"):
            return path[len(root.rstrip("/")) + 1 :]
    return path


def _column_lines(proposal: Proposal) -> list[str]:
    lines = []
    for name in ColumnMapping.model_fields:
        text = proposal.columns.get(name)
        shown = f"{name} = {_toml(text)}" if text else f'#{name} = "YOUR_COLUMN"'
        kind = proposal.seen[text][0] if text in proposal.seen else None
        meaning = MEANINGS[name] + (f"; read as {kind}" if kind else "")
        lines.append(f"{shown}  # {meaning}\n")
    return lines


def _extra_lines(proposal: Proposal) -> list[str]:
    def line(name: str, extra: tuple[str, ExtraType]) -> str:
        return f"{name} = {{ column = {_toml(extra[0])}, type = {_toml(extra[1])} }}\n"

    lines = [line(name, extra) for name, extra in proposal.extra.items()]
    lines += [f"#{line(name, extra)}" for name, extra in proposal.suggested.items()]
    return lines or ['#channel = { column = "YOUR_COLUMN", type = "categorical" }\n']


def _toml(value: str | bool | list[str]) -> str:
    """Write a value as TOML; JSON's texts, true/false and lists are TOML's."""
    if isinstance(value, str) and '"' in value and not re.search(r"['\x00-\x1f\x7f]", value):
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def describe_columns(seen: Mapping[str, tuple[str, str]]) -> str:
    """List source columns with type and example, one a line, for an error message."""
    return "\n".join(f"  {name}  {kind}  {example}" for name, (kind, example) in seen.items())
