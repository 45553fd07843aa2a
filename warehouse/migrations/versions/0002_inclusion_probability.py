"""The chance that an alert's transaction had of being queued, for samples from below the threshold.

Revision: 0002, after 0001. Alerts that are there already were flagged, so theirs is 1.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and its check in one statement: SQLite adds no check to a table later."""
    number = sa.Double().compile(dialect=op.get_bind().dialect)
    op.execute(
        f"ALTER TABLE alerts ADD COLUMN inclusion_probability {number} DEFAULT 1.0 NOT NULL "
        "CONSTRAINT ck_alerts_inclusion_probability "
        "CHECK (inclusion_probability > 0 AND inclusion_probability <= 1)"
    )
