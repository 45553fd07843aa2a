"""What the API takes, with limits; unknown names are refused, as they are most likely misspelt."""

from collections import Counter
from datetime import date
from typing import Annotated, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from desk.api_records import Lane, Verdict
from warehouse.queue_decisions import MOST_VERDICTS
from warehouse.queue_search import CaseFilter
from warehouse.queue_work import LARGEST_NUMBER

MOST_ROWS = 500

CaseState = Literal["open", "snoozed", "second", "closed", "all"]
Rank = Literal["priority", "expected_loss", "score", "amount", "newest", "oldest"]


def parse_day(value: object) -> object:
    """Read a day as YYYY-MM-DD alone: pydantic would take a number of seconds, too.

    Raises:
        ValueError: if a text is no day.
    """
    if not isinstance(value, str):
        return value
    day = date.fromisoformat(value)
    if day.isoformat() != value:
        raise ValueError("expected a day as YYYY-MM-DD")
    return day


def parse_number(value: object) -> object:
    """Take a JSON number alone: pydantic would take a text and a truth value, too.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, str | bool):
        raise ValueError("expected a number")
    return value


Day = Annotated[date, BeforeValidator(parse_day)]
# PostgreSQL's texts hold no NUL character.
Line = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
Note = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00]*$")]
Number = Annotated[int, BeforeValidator(parse_number), Field(ge=1, le=LARGEST_NUMBER)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Asked(BaseModel):
    """What may be asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PageQuery(Asked):
    """Which part of a numbered list is wanted."""

    cursor: int = Field(
        0, ge=0, le=LARGEST_NUMBER, description="Number of the last row read; 0 at the start."
    )
    limit: int = Field(100, ge=1, le=MOST_ROWS, description="How many rows at most.")


class AlertQuery(PageQuery):
    """Which alerts are wanted."""

    day: Day | None = Field(None, description="On which the transactions happened.")
    lane: Lane | None = None


class NextCaseQuery(Asked):
    """Among which open cases to look for the next one, and which of them comes first."""

    lane: Lane | None = None
    day: Day | None = Field(None, description="Of which the case has an alert.")
    merchant: Line | None = None
    account: Line | None = None
    model_version: Line | None = None
    least_amount: Amount | None = Field(None, description="Least amount at risk.")
    text: Line | None = Field(
        None,
        description="An account, transaction or merchant, or what it begins with (3 letters).",
    )
    rank: Rank = Field("priority", description="What comes first.")

    def to_filter(self) -> CaseFilter:
        """Give the filter of the queue."""
        fields = CaseFilter.__dataclass_fields__
        return CaseFilter(**{name: value for name, value in self if name in fields})


class CaseQuery(NextCaseQuery):
    """Which cases are wanted, in which order, and which part of them."""

    state: CaseState = Field("open", description="Open leaves out those that are snoozed.")
    claimed_by: Line | None = None
    cursor: Line | None = Field(None, description="The next_cursor of the page before.")
    limit: int = Field(100, ge=1, le=MOST_ROWS, description="How many cases at most.")


class DaysQuery(Asked):
    """Which days are wanted."""

    start: Day = Field(alias="from", description="The first day.")
    end: Day = Field(alias="to", description="The last day.")


class ReleaseQuery(Asked):
    """Whose claim is given back."""

    force: bool = Field(False, description="Take it from another analyst, as a lead may.")


class VerdictRequest(Asked):
    """A verdict on an alert."""

    alert_id: Number
    verdict: Verdict
    note: Note = ""
    seen: Number | None = Field(
        None,
        description="Number of the newest decision on the alert that stood when you looked; "
        "null if there was none. If another stands by now, all verdicts are refused.",
    )


class DecideRequest(Asked):
    """Verdicts that are taken all together, or not at all."""

    verdicts: list[VerdictRequest] = Field(min_length=1, max_length=MOST_VERDICTS)


class AnswerRequest(Asked):
    """What a second analyst adds to an answer."""

    note: Note = ""


async def refuse_repeated(request: Request) -> None:
    """Refuse a parameter that is given twice, of which all but one would be passed over.

    Raises:
        RequestValidationError: naming it.
    """
    names = Counter(name for name, _ in request.query_params.multi_items())
    message = "Given more than once; give it once"
    problems = [
        {"type": "repeated", "loc": ("query", name), "msg": message}
        for name, times in names.items()
        if times > 1
    ]
    if problems:
        raise RequestValidationError(problems)
