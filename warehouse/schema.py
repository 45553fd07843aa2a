"""Every lake table and column, once: DDL and ``docs/schema.md`` derive from it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column: its DuckDB type, unit, nullability and meaning."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: what a row is (its grain), its columns, and the column that partitions its files."""

    name: str
    grain: str
    columns: tuple[Column, ...]
    partitioned_by: str | None = "event_date"

    def column_names(self) -> list[str]:
        """Give the columns' names in table order."""
        return [column.name for column in self.columns]


EVENT_DATE = Column("event_date", "DATE", "The business day of the transaction.", "day")
TRANSACTION_ID = Column(
    "transaction_id", "VARCHAR", "Identifies the transaction; unique in the lake."
)
ACCOUNT_ID = Column("account_id", "VARCHAR", "The card, account or customer that paid.")
MERCHANT_ID = Column("merchant_id", "VARCHAR", "The merchant or terminal that was paid.")
BATCH_ID = Column(
    "batch_id", "VARCHAR", "The ingest run that wrote the row: digest of its files and settings."
)

TRANSACTIONS = Table(
    "transactions",
    "one row per transaction_id",
    (
        EVENT_DATE,
        TRANSACTION_ID,
        Column("occurred_at", "TIMESTAMPTZ", "When the transaction happened.", "UTC"),
        ACCOUNT_ID,
        MERCHANT_ID,
        Column("amount", "DOUBLE", "Amount paid; positive.", "currency units"),
        Column("currency_code", "VARCHAR", "ISO 4217 code of the amount.", nullable=True),
        Column("category", "VARCHAR", "Merchant category.", nullable=True),
        Column(
            "latitude",
            "DOUBLE",
            "Where the account holder lives or paid.",
            "degrees",
            nullable=True,
        ),
        Column(
            "longitude",
            "DOUBLE",
            "Where the account holder lives or paid.",
            "degrees",
            nullable=True,
        ),
        Column("merchant_latitude", "DOUBLE", "Where the merchant is.", "degrees", nullable=True),
        Column("merchant_longitude", "DOUBLE", "Where the merchant is.", "degrees", nullable=True),
        BATCH_ID,
        Column("ingested_at", "TIMESTAMPTZ", "When the row was written.", "UTC"),
    ),
)

QUARANTINE = Table(
    "quarantine",
    "one row per source row that broke a row rule",
    (
        Column("event_date", "DATE", "The day that was being ingested.", "day"),
        Column("transaction_id", "VARCHAR", "As read, if it could be read.", nullable=True),
        Column("rule", "VARCHAR", "Id of the first rule that the row broke."),
        Column("value", "VARCHAR", "The offending value as text.", nullable=True),
        Column(
            "raw",
            "VARCHAR",
            "The source row as JSON of texts, private columns already replaced or dropped.",
        ),
        Column(
            "raw_schema",
            "VARCHAR",
            "JSON object: source column to its type, so that the row can be replayed.",
        ),
        Column("source_file", "VARCHAR", "File (or table) that the row came from.", nullable=True),
        BATCH_ID,
        Column("quarantined_at", "TIMESTAMPTZ", "When the row was set aside.", "UTC"),
    ),
)

LABELS = Table(
    "labels",
    "one row per statement about a transaction; append-only: "
    "the newest with known_at <= T is the truth as of T",
    (
        EVENT_DATE,
        TRANSACTION_ID,
        ACCOUNT_ID,
        MERCHANT_ID,
        Column("is_fraud", "BOOLEAN", "What the statement says."),
        Column("known_at", "TIMESTAMPTZ", "From when on the statement may be used.", "UTC"),
        Column("source", "VARCHAR", "Who says so: source, chargeback, analyst or import."),
        Column(
            "recorded_at",
            "TIMESTAMPTZ",
            "When the row was written; breaks ties of known_at.",
            "UTC",
        ),
    ),
)

SCORE_COLUMNS = (
    EVENT_DATE,
    TRANSACTION_ID,
    Column(
        "score",
        "DOUBLE",
        "Score of the ensemble; higher is more anomalous. Without boosted trees a mean surprise, -log10 "
        "tail probability; with them it ranks.",
    ),
    Column(
        "members",
        "MAP(VARCHAR, DOUBLE)",
        "Each member's calibrated score.",
        "-log10 tail probability",
    ),
    Column("rank_of_day", "INTEGER", "1 is the most anomalous of the day."),
    Column(
        "is_flagged",
        "BOOLEAN",
        "Whether the row is within the day's review capacity and the threshold.",
    ),
    Column("model_version", "VARCHAR", "Version of the registered model that scored it."),
    Column("scored_at", "TIMESTAMPTZ", "When.", "UTC"),
    Column(
        "probability",
        "DOUBLE",
        "Probability of fraud that the score stands for; null where the model knew too few frauds.",
        "probability",
        nullable=True,
    ),
)

SCORES = Table("scores", "one row per scored transaction", SCORE_COLUMNS)

SHADOW_SCORES = Table(
    "shadow_scores",
    "one row per transaction and challenger that scored it; never queued",
    SCORE_COLUMNS,
)

LABEL_QUARANTINE = Table(
    "label_quarantine",
    "one row per imported label that broke a rule",
    (
        Column("source_file", "VARCHAR", "File that the row came from."),
        Column("row_number", "BIGINT", "Its place in the file, from 1."),
        Column("transaction_id", "VARCHAR", "As read, if it could be read.", nullable=True),
        Column("rule", "VARCHAR", "Id of the first rule that the row broke."),
        Column("value", "VARCHAR", "The offending value as text.", nullable=True),
        Column("raw", "VARCHAR", "The row as JSON of texts."),
        Column("quarantined_at", "TIMESTAMPTZ", "When the row was set aside.", "UTC"),
    ),
    partitioned_by=None,
)

PROMOTIONS = Table(
    "promotions",
    "one row per promotion or rollback of a model; append-only",
    (
        Column("decided_at", "TIMESTAMPTZ", "When the alias moved.", "UTC"),
        Column("action", "VARCHAR", "promote or rollback."),
        Column("model_version", "VARCHAR", "Version that became champion."),
        Column("replaced_version", "VARCHAR", "Champion until then.", nullable=True),
        Column("actor", "VARCHAR", "Who did it."),
        Column("reason", "VARCHAR", "Why, in the actor's words or the gate's."),
        Column("figures", "VARCHAR", "What the gate measured, as JSON.", nullable=True),
    ),
    partitioned_by=None,
)

PARTITION_RUNS = Table(
    "partition_runs",
    "one row per finished run of a stage over a day; the newest row of a day and stage is its state",
    (
        EVENT_DATE,
        Column(
            "stage",
            "VARCHAR",
            "arrival, ingest, replay, train, score, shadow, enqueue or decisions.",
        ),
        Column("status", "VARCHAR", "done, refused, or missing: its data have not come."),
        Column("lane", "VARCHAR", "Lane of the queue, for stages that queue.", nullable=True),
        Column("rows_in", "BIGINT", "Rows read.", "rows"),
        Column("rows_out", "BIGINT", "Rows written.", "rows"),
        Column("rows_quarantined", "BIGINT", "Rows set aside.", "rows"),
        Column("snapshot_id", "BIGINT", "Lake snapshot that the run read.", nullable=True),
        Column("model_version", "VARCHAR", "Model that was used.", nullable=True),
        Column("code_version", "VARCHAR", "Version of Nightwarden."),
        Column("settings_digest", "VARCHAR", "SHA-256 of the settings that matter to the stage."),
        Column("data_digest", "VARCHAR", "Digest of the stage's input rows.", nullable=True),
        Column("started_at", "TIMESTAMPTZ", "When the run began.", "UTC"),
        Column("finished_at", "TIMESTAMPTZ", "When it ended.", "UTC"),
        Column("error", "VARCHAR", "Why it was refused.", nullable=True),
    ),
    partitioned_by=None,
)

PSEUDONYM_KEYS = Table(
    "pseudonym_keys",
    "one row, once anything with pseudonyms was published",
    (
        Column(
            "fingerprint", "VARCHAR", "HMAC of a fixed text with the key; tells it from others."
        ),
        Column("recorded_at", "TIMESTAMPTZ", "When the first of its pseudonyms came.", "UTC"),
    ),
    partitioned_by=None,
)

TABLES = (
    TRANSACTIONS,
    QUARANTINE,
    LABELS,
    LABEL_QUARANTINE,
    SCORES,
    SHADOW_SCORES,
    PROMOTIONS,
    PARTITION_RUNS,
    PSEUDONYM_KEYS,
)


def create_statements(table: Table, catalog: str = "lake") -> list[str]:
    """Give the DDL that makes a table and its partitioning, harmless where the table exists.

    Example:
        >>> create_statements(SCORES)[0].splitlines()[0]
        'CREATE TABLE IF NOT EXISTS lake.scores ('
    """
    lines = [
        f"    {column.name} {column.type}" + ("" if column.nullable else " NOT NULL")
        for column in table.columns
    ]
    create = f"CREATE TABLE IF NOT EXISTS {catalog}.{table.name} (\n" + ",\n".join(lines) + "\n)"
    if table.partitioned_by is None:
        return [create]
    return [
        create,
        f"ALTER TABLE {catalog}.{table.name} SET PARTITIONED BY ({table.partitioned_by})",
    ]


def missing_statements(found: set[tuple[str, str]], catalog: str = "lake") -> list[str]:
    """Give the DDL that a lake lacks: tables, and nullable columns that are newer than their table.

    Args:
        found: Names of table and column that there are.
        catalog: Name of the attached lake.
    """
    tables = {name for name, _ in found}
    statements = []
    for table in TABLES:
        if table.name not in tables:
            statements += create_statements(table, catalog)
            continue
        statements += [
            f"ALTER TABLE {catalog}.{table.name} ADD COLUMN {column.name} {column.type}"
            for column in table.columns
            if column.nullable and (table.name, column.name) not in found
        ]
    return statements


def describe_markdown() -> str:
    """Write the dictionary as Markdown, the content of ``docs/schema.md``."""
    parts = [
        "# The lake's tables",
        "",
        "Generated from `warehouse/schema.py` by `make docs`; do not edit.",
        "",
    ]
    for table in TABLES:
        parts += [f"## {table.name}", "", f"Grain: {table.grain}.", ""]
        parts += ["| column | type | null | unit | meaning |", "| --- | --- | --- | --- | --- |"]
        parts += [
            f"| `{c.name}` | {c.type} | {'yes' if c.nullable else 'no'} | {c.unit} | {c.meaning} |"
            for c in table.columns
        ]
        parts.append("")
    return "\n".join(parts)
