"""What of the queue somebody looks at: the filter, as an address carries it from page to page.

Belongs here: reading and writing addresses. Does not: what a filter means
(``warehouse.queue_filters``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Self
from urllib.parse import urlencode

from desk.rendering import LANES
from warehouse.errors import UserError
from warehouse.queue_search import CaseCounts, CaseFilter

LONGEST = 300  # letters of a value; ids have fewer
RANK_NAMES = {
    "priority": "Priority",
    "expected_loss": "Expected loss",
    "score": "Score",
    "amount": "Amount at risk",
    "newest": "Newest",
    "oldest": "Oldest",
}
CHIPS = {
    "lane": "Lane",
    "day": "Day",
    "merchant": "Merchant",
    "model_version": "Model",
    "least_amount": "At least",
    "text": "Search",
}


@dataclass(frozen=True)
class Tab:
    """One of the queue's lists: its name, how many cases are in it, and where it is."""

    name: str
    count: int | None
    address: str
    is_current: bool


@dataclass(frozen=True)
class Chip:
    """A filter in force, and the address without it."""

    name: str
    value: str
    address: str


@dataclass(frozen=True)
class View:
    """Which cases somebody looks at and in which order; empty texts do not matter."""

    state: str = "open"
    mine: str = ""
    lane: str = ""
    day: str = ""
    merchant: str = ""
    least_amount: str = ""
    model_version: str = ""
    text: str = ""
    rank: str = "priority"

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Self:
        """Take what an address or a form says of it; what is too long is cut off."""
        given = {name: values.get(name) for name in cls.__dataclass_fields__}
        texts = {n: v.strip()[:LONGEST] for n, v in given.items() if isinstance(v, str)}
        return cls(**{name: text for name, text in texts.items() if text})

    def wanted(self, name: str) -> CaseFilter:
        """Give the filter, for the analyst of a name.

        Raises:
            UserError: if a value, or the rank, can be none.
        """
        if self.rank not in RANK_NAMES:
            raise UserError(
                f"expected a rank of {', '.join(RANK_NAMES)}, got {self.rank!r}; choose one in the "
                "list of the queue"
            )
        return CaseFilter(
            state=self.state,
            lane=self.lane or None,
            day=read_day(self.day) if self.day else None,
            merchant=self.merchant or None,
            least_amount=read_amount(self.least_amount) if self.least_amount else None,
            model_version=self.model_version or None,
            claimed_by=name if self.mine else None,
            text=self.text or None,
        )

    @property
    def values(self) -> dict[str, str]:
        """What differs from the usual view."""
        usual = View()
        named = vars(self).items()
        return {name: text for name, text in named if text != getattr(usual, name)}

    @property
    def suffix(self) -> str:
        """The view as the end of an address; empty for the usual one."""
        return f"?{urlencode(self.values)}" if self.values else ""

    @property
    def address(self) -> str:
        """Where the list is."""
        return f"/queue{self.suffix}"

    def more(self, **values: object) -> str:
        """Give the list's address with further values."""
        return f"/queue?{urlencode(self.values | values)}"

    def tabs(self, counts: CaseCounts) -> tuple[Tab, ...]:
        """Give the lists that there are, each with the same filters."""
        kinds = (
            ("Open", "open", "", counts.open),
            ("Mine", "open", "yes", counts.mine),
            ("Snoozed", "snoozed", "", counts.snoozed),
            ("Second look", "second", "", counts.second),
            ("Closed", "closed", "", None),
        )
        return tuple(
            Tab(
                name,
                count,
                replace(self, state=state, mine=mine).address,
                (self.state, bool(self.mine)) == (state, bool(mine)),
            )
            for name, state, mine, count in kinds
        )

    def chips(self) -> Iterator[Chip]:
        """Give the filters in force."""
        for field, name in CHIPS.items():
            value = getattr(self, field)
            if value:
                shown = LANES.get(value, value) if field == "lane" else value
                yield Chip(name, shown, replace(self, **{field: ""}).address)


def read_day(text: str) -> date:
    """Read a day.

    Raises:
        UserError: if it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"expected a day, got {text!r}; write it as 2026-03-21") from error


def read_amount(text: str) -> float:
    """Read an amount; a comma may part thousands.

    Raises:
        UserError: if it is none.
    """
    try:
        return float(text.replace(",", ""))
    except ValueError as error:
        raise UserError(f"expected an amount, got {text!r}; write it as 99.50") from error
