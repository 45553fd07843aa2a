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
    false,
    text,
)

HEAD = "0003"
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
    # figures of the case's alerts, kept by warehouse.queue_figures so that lists need no sums
    Column("alert_count", Integer, nullable=False, server_default=text("0")),
    Column("waiting_count", Integer, nullable=False, server_default=text("0")),
    Column("score", Double, nullable=False, server_default=text("0.0")),
    Column("amount", Double, nullable=False, server_default=text("0.0")),
    Column("amount_at_risk", Double, nullable=False, server_default=text("0.0")),
    Column("priority", Double, nullable=False, server_default=text("0.0")),
    Column("expected_loss", Double),
    Column("first_event_date", Date),
    Column("awaits_second", Boolean, nullable=False, server_default=false()),
    # what analysts do with it
    Column("claimed_by", String),
    Column("claimed_until", UtcDateTime),
    Column("snoozed_until", Date),
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
Index("ix_cases_snoozed_until", CASES.c.snoozed_until)
Index("ix_cases_account_id", CASES.c.account_id)
Index("ix_cases_claimed_by", CASES.c.claimed_by)
Index(
    "ix_cases_awaits_second",
    CASES.c.id,
    sqlite_where=text("awaits_second = 1"),
    postgresql_where=text("awaits_second"),
)
for name in ("priority", "expected_loss", "score", "amount_at_risk", "created_at", "updated_at"):
    Index(f"ix_cases_state_{name}_id", CASES.c.state, CASES.c[name], CASES.c.id)

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
    Column("probability", Double),
    Column("snapshot_id", BigInteger),
    CheckConstraint(
        "inclusion_probability > 0 AND inclusion_probability <= 1", name="inclusion_probability"
    ),
    sqlite_autoincrement=True,
)
for name in ("account_id", "merchant_id", "model_version"):
    Index(f"ix_alerts_{name}_case_id", ALERTS.c[name], ALERTS.c.case_id)

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("alert_id", ROW_ID, ForeignKey("alerts.id"), nullable=False),
    Column("verdict", String, nullable=False),
    Column("analyst", String, nullable=False),
    Column("note", Text, nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    Column("proposed_by", String),
    CheckConstraint("verdict IN ('fraud', 'genuine', 'unsure')", name="verdict"),
    sqlite_autoincrement=True,
)
Index("ix_decisions_alert_id_id", DECISIONS.c.alert_id, DECISIONS.c.id)
Index("ix_decisions_decided_at", DECISIONS.c.decided_at)
Index("ix_decisions_analyst_decided_at", DECISIONS.c.analyst, DECISIONS.c.decided_at)

RETRACTIONS = Table(
    "retractions",
    METADATA,
    Column(
        "decision_id", ROW_ID, ForeignKey("decisions.id"), primary_key=True, autoincrement=False
    ),
    Column("analyst", String, nullable=False),
    Column("retracted_at", UtcDateTime, nullable=False),
)

PROPOSALS = Table(
    "proposals",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("alert_id", ROW_ID, ForeignKey("alerts.id"), nullable=False),
    Column("verdict", String, nullable=False),
    Column("analyst", String, nullable=False),
    Column("note", Text, nullable=False),
    Column("proposed_at", UtcDateTime, nullable=False),
    Column("outcome", String),
    Column("resolved_by", String),
    Column("resolved_at", UtcDateTime),
    CheckConstraint("verdict IN ('fraud', 'genuine')", name="verdict"),
    CheckConstraint("outcome IN ('confirmed', 'refused', 'withdrawn')", name="outcome"),
    sqlite_autoincrement=True,
)
Index(
    "uq_proposals_open_alert_id",
    PROPOSALS.c.alert_id,
    unique=True,
    sqlite_where=text("outcome IS NULL"),
    postgresql_where=text("outcome IS NULL"),
)

SUPPRESSIONS = Table(
    "suppressions",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("kind", String, nullable=False),
    Column("value", String, nullable=False),
    Column("until", Date, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("lifted_by", String),
    Column("lifted_at", UtcDateTime),
    CheckConstraint("kind IN ('account', 'merchant')", name="kind"),
    sqlite_autoincrement=True,
)
Index("ix_suppressions_kind_value", SUPPRESSIONS.c.kind, SUPPRESSIONS.c.value)

SUPPRESSED_ALERTS = Table(
    "suppressed_alerts",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("transaction_id", String, nullable=False, unique=True),
    Column("suppression_id", ROW_ID, ForeignKey("suppressions.id"), nullable=False, index=True),
    Column("event_date", Date, nullable=False),
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
    Column("inclusion_probability", Double, nullable=False),
    Column("probability", Double),
    Column("snapshot_id", BigInteger),
    sqlite_autoincrement=True,
)

ACCOUNT_TRANSACTIONS = Table(
    "account_transactions",
    METADATA,
    Column("transaction_id", String, primary_key=True),
    Column("account_id", String, nullable=False),
    Column("event_date", Date, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("merchant_id", String, nullable=False),
    Column("amount", Double, nullable=False),
)
Index(
    "ix_account_transactions_account_id_occurred_at",
    ACCOUNT_TRANSACTIONS.c.account_id,
    ACCOUNT_TRANSACTIONS.c.occurred_at,
)

CHANGES = Table(
    "changes",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("happened_at", UtcDateTime, nullable=False),
    Column("kind", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("case_id", ROW_ID),
    Column("alert_id", ROW_ID),
    Column("details", JSON, nullable=False),
    sqlite_autoincrement=True,
)

WEBHOOK_DELIVERIES = Table(
    "webhook_deliveries",
    METADATA,
    Column("webhook", String, primary_key=True),
    Column("last_change", ROW_ID, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("leased_until", UtcDateTime),
    Column("block_last", ROW_ID),
    Column("last_error", Text),
    Column("delivered_at", UtcDateTime),
)

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
    Column("password_hash", String),
    Column("failed_attempts", Integer, nullable=False, server_default=text("0")),
    Column("locked_until", UtcDateTime),
    sqlite_autoincrement=True,
)

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("token_hash", String(64), primary_key=True),
    Column("analyst_id", ROW_ID, ForeignKey("analysts.id"), nullable=False, index=True),
    Column("csrf_token", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

SECRETS = Table(
    "secrets",
    METADATA,
    Column("name", String, primary_key=True),
    Column("value", String(64), nullable=False),
)

API_TOKENS = Table(
    "api_tokens",
    METADATA,
    Column("id", ROW_ID, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("analyst_id", ROW_ID, ForeignKey("analysts.id"), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    sqlite_autoincrement=True,
)
