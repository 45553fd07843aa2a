"""Turns templates into pages; every value is escaped, and written alike on every page."""

import hashlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent

SHOWN_CHARACTERS = 14  # of an id: pseudonyms have 64, and people compare beginnings and ends

LANES = {"nightly": "Nightly", "backfill": "Backfill", "audit": "Audit sample"}
VERDICTS = {"fraud": "Fraud", "genuine": "Genuine", "unsure": "Unsure"}


def amount(value: float) -> str:
    """Write an amount with two decimals.

    Example:
        >>> amount(1234.5)
        '1,234.50'
    """
    return f"{value:,.2f}"


def moment(value: datetime) -> str:
    """Write a moment in UTC to the minute.

    Example:
        >>> moment(datetime(2026, 3, 21, 15, 54, 7, tzinfo=UTC))
        '2026-03-21 15:54'
    """
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"


def age(value: datetime, now: datetime) -> str:
    """Write how long ago a moment was, in its largest unit.

    Example:
        >>> now = datetime(2026, 3, 21, 12, tzinfo=UTC)
        >>> [age(now - timedelta(minutes=m), now) for m in (0, 5, 200, 3000, 90000)]
        ['now', '5 min', '3 h', '2 d', '8 w']
    """
    minutes = int((now - value).total_seconds() // 60)
    for size, unit, least in ((10_080, "w", 6), (1_440, "d", 2), (60, "h", 1), (1, "min", 1)):
        if minutes >= size * least:
            return f"{minutes // size} {unit}"
    return "now"


def until(value: datetime, now: datetime) -> str:
    """Write how far ahead a moment is, rounded up to minutes.

    Example:
        >>> now = datetime(2026, 3, 21, 12, tzinfo=UTC)
        >>> until(now + timedelta(minutes=14, seconds=5), now)
        '15 min'
    """
    minutes = -(-(value - now) // timedelta(minutes=1))
    return f"{max(minutes, 0)} min" if minutes < 120 else f"{minutes // 60} h"


def short(value: str) -> str:
    """Shorten an id in the middle; pages carry the whole one in its title.

    Example:
        >>> short("9f86d081884c7d659a2feaa0c55ad015")
        '9f86d081…d015'
    """
    return value if len(value) <= SHOWN_CHARACTERS else f"{value[:8]}…{value[-4:]}"


def percent(value: float) -> str:
    """Write a share so that small ones and those near 1 stay true.

    Example:
        >>> [percent(share) for share in (0.0004, 0.034, 0.42, 0.9996)]
        ['<0.1 %', '3.4 %', '42 %', '>99.9 %']
    """
    if 0 < value < 0.001:
        return "<0.1 %"
    if 0.999 < value < 1:
        return ">99.9 %"
    decimals = 0 if 0.1 <= value < 0.99 or value in (0, 1) else 1
    return f"{value:.{decimals}%}".replace("%", " %")


def count(number: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun.

    Example:
        >>> count(1, "alert"), count(1200, "alert")
        ('1 alert', '1,200 alerts')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """End what an error tells as a sentence, so that another can follow.

    Example:
        >>> sentence("expected a day, got 'soon'; write it as 2026-03-21")
        "expected a day, got 'soon'; write it as 2026-03-21."
    """
    return text if not text or text.endswith((".", "!", "?", "…")) else f"{text}."


@cache
def asset(name: str) -> str:
    """Give the address of a static file; it changes with the file, so browsers may keep it."""
    digest = hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"


def make_environment() -> Environment:
    """Make the templates' environment: compiled once, everything escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: tuple[Callable[..., str], ...] = (
        amount,
        moment,
        age,
        until,
        short,
        percent,
        count,
        sentence,
    )
    environment.filters.update({function.__name__: function for function in filters})
    environment.globals.update(asset=asset, LANES=LANES, VERDICTS=VERDICTS)
    return environment


ENVIRONMENT = make_environment()


def today(now: datetime) -> date:
    """Give the day, in UTC, by which snoozes and suppressions end."""
    return now.astimezone(UTC).date()


def render(
    request: Request, template: str, *, status_code: int = 200, **values: object
) -> HTMLResponse:
    """Render a template of ``desk/templates`` with the request's person, if one is signed in.

    Templates find ``person`` (``desk.access.Person`` or None), ``path``, the request's, and
    ``now`` by the queue's clock.
    """
    person = getattr(request.state, "person", None)
    text = ENVIRONMENT.get_template(template).render(
        person=person, path=request.url.path, now=request.app.state.context.clock(), **values
    )
    return HTMLResponse(text, status_code=status_code)
