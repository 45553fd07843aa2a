"""The review queue: cases, alerts, decisions, audit events and analysts.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
IS_OPEN = sa.text("state = 'open'")
APPEND_ONLY = {"decisions": "id", "audit_events": "sequence"}


def upgrade() -> None:
    """Make the tables, then forbid changes to those that only grow."""
    create_cases()
    create_alerts()
    create_decisions()
    create_audit_events()
    create_analysts()
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    statements = postgresql_triggers() if on_postgresql else sqlite_triggers()
    for statement in statements:
        op.execute(statement)


def create_cases() -> None:
    """Make ``cases``, with at most one open case per account and lane."""
    op.create_table(
        "cases",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("lane", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("opened_for", sa.Date(), nullable=False),
        sa.Column("last_event_date", sa.Date(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.CheckConstraint("state IN ('open', 'closed')", name=op.f("ck_cases_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cases")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_cases_open_account_id_lane",
        "cases",
        ["account_id", "lane"],
        unique=True,
        sqlite_where=IS_OPEN,
        postgresql_where=IS_OPEN,
    )
    op.create_index("ix_cases_state_lane", "cases", ["state", "lane"])


def create_alerts() -> None:
    """Make ``alerts``, one row per flagged transaction over all lanes."""
    op.create_table(
        "alerts",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("transaction_id", sa.String(), nullable=False),
        sa.Column("case_id", ROW_ID, nullable=False),
        sa.Column("event_date", sa.Date(), nullable=False),
        sa.Column("occurred_at", MOMENT, nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("amount", sa.Double(), nullable=False),
        sa.Column("lane", sa.String(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("rank_of_day", sa.Integer(), nullable=False),
        sa.Column("members", sa.JSON(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name=op.f("fk_alerts_case_id_cases")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("transaction_id", name=op.f("uq_alerts_transaction_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_alerts_case_id"), "alerts", ["case_id"])
    op.create_index(op.f("ix_alerts_event_date"), "alerts", ["event_date"])


def create_decisions() -> None:
    """Make ``decisions``, what analysts said, in the order in which they said it."""
    op.create_table(
        "decisions",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("alert_id", ROW_ID, nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("analyst", sa.String(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("decided_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "verdict IN ('fraud', 'genuine', 'unsure')", name=op.f("ck_decisions_verdict")
        ),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alerts.id"], name=op.f("fk_decisions_alert_id_alerts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_decisions_alert_id_id", "decisions", ["alert_id", "id"])


def create_audit_events() -> None:
    """Make ``audit_events``, each row sealed with the hash of the one before."""
    op.create_table(
        "audit_events",
        sa.Column("sequence", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("happened_at", MOMENT, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit_events")),
    )


def create_analysts() -> None:
    """Make ``analysts``, who may decide."""
    op.create_table(
        "analysts",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_analysts")),
        sa.UniqueConstraint("name", name=op.f("uq_analysts_name")),
        sqlite_autoincrement=True,
    )


def sqlite_triggers() -> list[str]:
    """Forbid UPDATE, DELETE and INSERT OR REPLACE, which deletes without a trigger."""
    statements = []
    for table, key in APPEND_ONLY.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        taken = f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key})"
        statements += [
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}",
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} {taken} {refuse}",
        ]
    return statements


def postgresql_triggers() -> list[str]:
    """Forbid UPDATE, DELETE and TRUNCATE."""
    statements = [
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    ]
    statements += [
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        for table in APPEND_ONLY
    ]
    return statements
