"""What the review desk needs, from claims to sessions.

Revision: 0003, after 0002. Cases that are there get their figures.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
IS_UNRESOLVED = sa.text("outcome IS NULL")
APPEND_ONLY = {"retractions": "decision_id", "changes": "id"}
RANKED_BY = ("priority", "expected_loss", "score", "amount_at_risk", "created_at", "updated_at")


def upgrade() -> None:
    """Widen the tables that there are, make the new ones, and count what is in the cases."""
    widen_cases()
    widen_alerts()
    op.add_column("decisions", sa.Column("proposed_by", sa.String()))
    op.create_index("ix_decisions_decided_at", "decisions", ["decided_at"])
    op.create_index("ix_decisions_analyst_decided_at", "decisions", ["analyst", "decided_at"])
    create_retractions()
    create_proposals()
    create_suppressions()
    create_suppressed_alerts()
    create_account_transactions()
    create_changes()
    create_webhook_deliveries()
    widen_analysts()
    create_sessions()
    create_secrets()
    create_api_tokens()
    op.execute(COUNT_ALERTS)
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    for statement in postgresql_triggers() if on_postgresql else sqlite_triggers():
        op.execute(statement)


def widen_cases() -> None:
    """Add figures, claim and snooze to ``cases``, and the orders in which they are listed."""
    none, zero = sa.text("0"), sa.text("0.0")
    columns: tuple[sa.Column[Any], ...] = (
        sa.Column("alert_count", sa.Integer(), nullable=False, server_default=none),
        sa.Column("waiting_count", sa.Integer(), nullable=False, server_default=none),
        *(
            sa.Column(name, sa.Double(), nullable=False, server_default=zero)
            for name in ("score", "amount", "amount_at_risk", "priority")
        ),
        sa.Column("expected_loss", sa.Double()),
        sa.Column("first_event_date", sa.Date()),
        sa.Column("awaits_second", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("claimed_by", sa.String()),
        sa.Column("claimed_until", MOMENT),
        sa.Column("snoozed_until", sa.Date()),
    )
    for column in columns:
        op.add_column("cases", column)
    op.create_index("ix_cases_account_id", "cases", ["account_id"])
    op.create_index("ix_cases_claimed_by", "cases", ["claimed_by"])
    op.create_index(
        "ix_cases_awaits_second",
        "cases",
        ["id"],
        sqlite_where=sa.text("awaits_second = 1"),
        postgresql_where=sa.text("awaits_second"),
    )
    op.create_index("ix_cases_snoozed_until", "cases", ["snoozed_until"])
    for name in RANKED_BY:
        op.create_index(f"ix_cases_state_{name}_id", "cases", ["state", name, "id"])


def widen_alerts() -> None:
    """Add the probability and the snapshot, and the ways in which alerts are looked for."""
    op.add_column("alerts", sa.Column("probability", sa.Double()))
    op.add_column("alerts", sa.Column("snapshot_id", sa.BigInteger()))
    for name in ("account_id", "merchant_id", "model_version"):
        op.create_index(f"ix_alerts_{name}_case_id", "alerts", [name, "case_id"])


def create_retractions() -> None:
    """Make ``retractions``: decisions that were taken back."""
    op.create_table(
        "retractions",
        sa.Column("decision_id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("analyst", sa.String(), nullable=False),
        sa.Column("retracted_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["decision_id"], ["decisions.id"], name=op.f("fk_retractions_decision_id_decisions")
        ),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_retractions")),
    )


def create_proposals() -> None:
    """Make ``proposals``: verdicts that a second analyst has to confirm."""
    op.create_table(
        "proposals",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("alert_id", ROW_ID, nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("analyst", sa.String(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("proposed_at", MOMENT, nullable=False),
        sa.Column("outcome", sa.String()),
        sa.Column("resolved_by", sa.String()),
        sa.Column("resolved_at", MOMENT),
        sa.CheckConstraint("verdict IN ('fraud', 'genuine')", name=op.f("ck_proposals_verdict")),
        sa.CheckConstraint(
            "outcome IN ('confirmed', 'refused', 'withdrawn')", name=op.f("ck_proposals_outcome")
        ),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alerts.id"], name=op.f("fk_proposals_alert_id_alerts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proposals")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_proposals_open_alert_id",
        "proposals",
        ["alert_id"],
        unique=True,
        sqlite_where=IS_UNRESOLVED,
        postgresql_where=IS_UNRESOLVED,
    )


def create_suppressions() -> None:
    """Make ``suppressions``: accounts and merchants whose alerts are logged, not queued."""
    op.create_table(
        "suppressions",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("until", sa.Date(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("lifted_by", sa.String()),
        sa.Column("lifted_at", MOMENT),
        sa.CheckConstraint("kind IN ('account', 'merchant')", name=op.f("ck_suppressions_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppressions")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_suppressions_kind_value", "suppressions", ["kind", "value"])


def create_suppressed_alerts() -> None:
    """Make ``suppressed_alerts``: what a suppression kept out of the queue."""
    op.create_table(
        "suppressed_alerts",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("transaction_id", sa.String(), nullable=False),
        sa.Column("suppression_id", ROW_ID, nullable=False),
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
        sa.Column("inclusion_probability", sa.Double(), nullable=False),
        sa.Column("probability", sa.Double()),
        sa.Column("snapshot_id", sa.BigInteger()),
        sa.ForeignKeyConstraint(
            ["suppression_id"],
            ["suppressions.id"],
            name=op.f("fk_suppressed_alerts_suppression_id_suppressions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppressed_alerts")),
        sa.UniqueConstraint("transaction_id", name=op.f("uq_suppressed_alerts_transaction_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_suppressed_alerts_suppression_id"), "suppressed_alerts", ["suppression_id"]
    )


def create_account_transactions() -> None:
    """Make ``account_transactions``: what an account did before and around its alerts."""
    op.create_table(
        "account_transactions",
        sa.Column("transaction_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("event_date", sa.Date(), nullable=False),
        sa.Column("occurred_at", MOMENT, nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("amount", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("transaction_id", name=op.f("pk_account_transactions")),
    )
    op.create_index(
        "ix_account_transactions_account_id_occurred_at",
        "account_transactions",
        ["account_id", "occurred_at"],
    )


def create_changes() -> None:
    """Make ``changes``: what happened to alerts and cases, in order, for feeds and webhooks."""
    op.create_table(
        "changes",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("happened_at", MOMENT, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("case_id", ROW_ID),
        sa.Column("alert_id", ROW_ID),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_changes")),
        sqlite_autoincrement=True,
    )


def create_webhook_deliveries() -> None:
    """Make ``webhook_deliveries``: how far each webhook has been told."""
    op.create_table(
        "webhook_deliveries",
        sa.Column("webhook", sa.String(), nullable=False),
        sa.Column("last_change", ROW_ID, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", MOMENT, nullable=False),
        sa.Column("leased_until", MOMENT),
        sa.Column("block_last", ROW_ID),
        sa.Column("last_error", sa.Text()),
        sa.Column("delivered_at", MOMENT),
        sa.PrimaryKeyConstraint("webhook", name=op.f("pk_webhook_deliveries")),
    )


def widen_analysts() -> None:
    """Add the password's hash, and what locks an analyst out."""
    op.add_column("analysts", sa.Column("password_hash", sa.String()))
    op.add_column(
        "analysts",
        sa.Column("failed_attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
    )
    op.add_column("analysts", sa.Column("locked_until", MOMENT))


def create_sessions() -> None:
    """Make ``sessions``: who is signed in; tokens are kept as hashes."""
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("analyst_id", ROW_ID, nullable=False),
        sa.Column("csrf_token", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["analyst_id"], ["analysts.id"], name=op.f("fk_sessions_analyst_id_analysts")
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_analyst_id"), "sessions", ["analyst_id"])


def create_secrets() -> None:
    """Make ``secrets``: random texts that all desks over the queue share."""
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )


def create_api_tokens() -> None:
    """Make ``api_tokens``: what other programs show; kept as hashes."""
    op.create_table(
        "api_tokens",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("analyst_id", ROW_ID, nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.ForeignKeyConstraint(
            ["analyst_id"], ["analysts.id"], name=op.f("fk_api_tokens_analyst_id_analysts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("name", name=op.f("uq_api_tokens_name")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
        sqlite_autoincrement=True,
    )


COUNT_ALERTS = """
    WITH judged AS (
        SELECT case_id, event_date, score, amount,
            NOT EXISTS (SELECT 1 FROM decisions WHERE alert_id = alerts.id) AS is_waiting
        FROM alerts
    ), figures AS (
        SELECT case_id, count(*) AS alert_count,
            sum(CASE WHEN is_waiting THEN 1 ELSE 0 END) AS waiting_count,
            coalesce(max(CASE WHEN is_waiting THEN score END), max(score)) AS score,
            sum(amount) AS amount,
            coalesce(sum(CASE WHEN is_waiting THEN amount END), sum(amount)) AS amount_at_risk,
            coalesce(sum(CASE WHEN is_waiting THEN score * amount END), sum(score * amount))
                AS priority,
            min(event_date) AS first_event_date
        FROM judged GROUP BY case_id
    )
    UPDATE cases SET alert_count = figures.alert_count, waiting_count = figures.waiting_count,
        score = figures.score, amount = figures.amount, amount_at_risk = figures.amount_at_risk,
        priority = figures.priority, first_event_date = figures.first_event_date
    FROM figures WHERE figures.case_id = cases.id
"""


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
    """Forbid UPDATE, DELETE and TRUNCATE, by the function that the first revision made."""
    return [
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        for table in APPEND_ONLY
    ]
