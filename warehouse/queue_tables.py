"""The review queue's tables for SQLAlchemy Core; ``warehouse/migrations`` builds the same.

Belongs here: columns, keys, indexes and column types. Does not: statements (``warehouse.queue``)
and the triggers that make tables append-only (``warehouse/migrations``). A change here needs a
migration; a test compares the two.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)

HEAD = "0002"
"""The newest revision in ``warehouse/migrations/versions``; a test compares the two."""

VERSION_TABLE = "queue_schema_version"
"""Not Alembic's default: a shared database may hold MLflow's ``alembic_version``."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment with a time zone, kept and given in UTC; SQLite itself knows no time zones.

    Raises:
        ValueError: if a moment without a time zone is written.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the moment in UTC, without its time zone where the database has none."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(
                f"expected a moment with a time zone, got {value.isoformat()}; add tzinfo=UTC"
            )
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ANN401 - SQLAlchemy's signature
        """Give the stored moment as an aware one in UTC."""
        if value is None:
            return None
        moment: datetime = value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value
        return moment.astimezone(UTC)


METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column that is exactly INTEGER PRIMARY KEY.
ROW_ID = BigInteger().with_variant(Integer(), "sqlite")

CASES = Table(
    "cases",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("account_id", String, nullable=False),
    Column("lane", String, nullable=False),
    Column("state", String, nullable=False),
    Column("opened_for", Date, nullable=False),
    Column("last_event_date", Date, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    CheckConstraint("state IN ('open', 'closed')", name="state"),
    sqlite_autoincrement=True,
)
Index(
    "uq_cases_open_account_id_lane",
    CASES.c.account_id,
    CASES.c.lane,
    unique=True,
    sqlite_where=text("state = 'open'"),
    postgresql_where=text("state = 'open'"),
)
Index("ix_cases_state_lane", CASES.c.state, CASES.c.lane)

ALERTS = Table(
    "alerts",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("transaction_id", String, nullable=False, unique=True),
    Column("case_id", ROW_ID, ForeignKey("cases.id"), nullable=False, index=True),
    Column("event_date", Date, nullable=False, index=True),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("account_id", String, nullable=False),
    Column("merchant_id", String, nullable=False),
    Column("amount", Double, nullable=False),
    Column("lane", String, nullable=False),
    Column("score", Double, nullable=False),
    Column("rank_of_day", Integer, nullable=False),
    Column("members", JSON, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("model_version", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("inclusion_probability", Double, nullable=False, server_default=text("1.0")),
    CheckConstraint(
        "inclusion_probability > 0 AND inclusion_probability <= 1", name="inclusion_probability"
    ),
    sqlite_autoincrement=True,
)

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("alert_id", ROW_ID, ForeignKey("alerts.id"), nullable=False),
    Column("verdict", String, nullable=False),
    Column("analyst", String, nullable=False),
    Column("note", Text, nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    CheckConstraint("verdict IN ('fraud', 'genuine', 'unsure')", name="verdict"),
    sqlite_autoincrement=True,
)
Index("ix_decisions_alert_id_id", DECISIONS.c.alert_id, DECISIONS.c.id)

AUDIT_EVENTS = Table(
    "audit_events",
    METADATA,
    Column("sequence", ROW_ID, primary_key=True, autoincrement=False),
    Column("happened_at", UtcDateTime, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("details", JSON, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

ANALYSTS = Table(
    "analysts",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)
