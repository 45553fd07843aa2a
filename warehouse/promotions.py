"""The promotion log ``lake.promotions``: who made which model champion, when, why, on what figures."""

from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, datetime, timedelta

from warehouse.connection import Lake


@dataclass(frozen=True)
class Promotion:
    """One line of the log; see ``warehouse.schema.PROMOTIONS``."""

    action: str
    model_version: str
    replaced_version: str | None
    actor: str
    reason: str
    figures: str | None = None
    decided_at: datetime | None = None


NAMES = ", ".join(field.name for field in fields(Promotion))


def append_promotion(lake: Lake, promotion: Promotion) -> Promotion:
    """Append a line and give it with its moment, which is later than any line's before.

    The order of the log says which version a rollback leads to, so a clock that was set back does
    not disturb it.
    """
    places = ", ".join("?" for _ in fields(Promotion))
    with lake.commit() as connection:
        row = connection.execute("SELECT max(decided_at) FROM lake.promotions").fetchone()
        moment = datetime.now(UTC)
        if row and row[0]:
            moment = max(moment, row[0] + timedelta(microseconds=1))
        decided = replace(promotion, decided_at=moment)
        connection.execute(
            f"INSERT INTO lake.promotions ({NAMES}) VALUES ({places})", astuple(decided)
        )
    return decided


def list_promotions(lake: Lake) -> list[Promotion]:
    """List the log, oldest line first."""
    rows = lake.connection.execute(
        f"SELECT {NAMES} FROM lake.promotions ORDER BY decided_at"
    ).fetchall()
    return [Promotion(*row) for row in rows]
