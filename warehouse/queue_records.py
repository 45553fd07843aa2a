"""What goes into the review queue and what comes out of it, as plain frozen records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from warehouse.errors import UserError


class NotInQueueError(UserError):
    """No case, alert or other record has the number that was asked for."""


class ConflictError(UserError):
    """Somebody else was faster: the case is claimed, or what was seen of it has changed."""


@dataclass(frozen=True)
class Reason:
    """Why a transaction stands out: a feature, its value, the usual value, and a sentence."""

    feature: str
    value: float | str | None
    usual: float | str | None
    text: str


@dataclass(frozen=True)
class NewAlert:
    """One transaction to review, as the scoring stage hands it over.

    ``inclusion_probability`` is the chance that the transaction had of being queued: 1 for a
    flagged one, n / N for one of n drawn from the N below the threshold. ``probability`` of fraud
    is None where the model knew too few frauds; ``snapshot_id`` is the lake's that was scored.

    Raises:
        ValueError: if a moment has no time zone, a number is not finite, an id is empty, or the
            inclusion probability is not above 0 and at most 1.
    """

    transaction_id: str
    occurred_at: datetime
    account_id: str
    merchant_id: str
    amount: float
    score: float
    rank_of_day: int
    members: Mapping[str, float]
    reasons: Sequence[Reason]
    model_version: str
    inclusion_probability: float = 1.0
    probability: float | None = None
    snapshot_id: int | None = None

    def __post_init__(self) -> None:
        """Refuse what a database would store differently, or not at all."""
        if not (self.transaction_id and self.account_id):
            raise ValueError(
                f"expected a transaction id and an account id, got {self.transaction_id!r} and "
                f"{self.account_id!r}; enqueue only validated transactions"
            )
        if self.occurred_at.utcoffset() is None:
            raise ValueError(
                f"expected occurred_at with a time zone, got {self.occurred_at.isoformat()} for "
                f"transaction {self.transaction_id}; add tzinfo=UTC"
            )
        numbers = {"amount": self.amount, "score": self.score, **self.members}
        bad = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        if bad:
            raise ValueError(
                f"expected finite numbers, got {bad} for transaction {self.transaction_id}; "
                "leave out a member that failed"
            )
        if not 0 < self.inclusion_probability <= 1:
            raise ValueError(
                "expected an inclusion probability above 0 and at most 1, got "
                f"{self.inclusion_probability} for transaction {self.transaction_id}; give rows "
                "drawn over rows that could be drawn"
            )


@dataclass(frozen=True)
class EnqueueResult:
    """What an enqueue did.

    Alerts added and already there, cases opened and appended to, and alerts that suppressions kept
    out of the cases.
    """

    added: int
    already_there: int
    cases_opened: int
    cases_appended: int
    suppressed: int


@dataclass(frozen=True)
class Alert:
    """One alert in the queue; ``verdict`` is its newest that stands, or None while it waits."""

    id: int
    case_id: int
    transaction_id: str
    event_date: date
    occurred_at: datetime
    account_id: str
    merchant_id: str
    amount: float
    lane: str
    score: float
    rank_of_day: int
    members: dict[str, float]
    reasons: tuple[Reason, ...]
    model_version: str
    created_at: datetime
    inclusion_probability: float
    probability: float | None
    snapshot_id: int | None
    verdict: str | None


@dataclass(frozen=True)
class Decision:
    """One thing that an analyst said about one alert, with what a label needs to know of it.

    ``proposed_by`` is the first analyst, where a second one had to confirm.
    """

    id: int
    alert_id: int
    case_id: int
    transaction_id: str
    event_date: date
    account_id: str
    merchant_id: str
    verdict: str
    analyst: str
    note: str
    decided_at: datetime
    proposed_by: str | None
    is_retracted: bool


@dataclass(frozen=True)
class CaseSummary:
    """One line of the ranked list.

    ``score``, ``amount_at_risk``, ``priority`` and ``expected_loss`` count the alerts that still
    wait for a verdict, or all of them once none waits; ``amount`` counts all.

    Attributes:
        score: The highest score.
        priority: Sum of score times amount.
        expected_loss: Sum of probability times amount; None where no alert has a probability.
        awaits_second: Whether a verdict waits for a second analyst.
        claimed_by: Who works on it, until ``claimed_until``; a claim that ran out is none.
        snoozed_until: The day on which it comes back, in UTC.
        reasons: Sentences of its foremost alert, strongest first.
    """

    id: int
    account_id: str
    lane: str
    state: str
    opened_for: date
    created_at: datetime
    updated_at: datetime
    alert_count: int
    waiting_count: int
    score: float
    amount_at_risk: float
    amount: float
    priority: float
    expected_loss: float | None
    first_event_date: date
    last_event_date: date
    awaits_second: bool
    claimed_by: str | None
    claimed_until: datetime | None
    snoozed_until: date | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CaseDetail:
    """A case with its alerts, highest score first, and their decisions, oldest first."""

    summary: CaseSummary
    alerts: tuple[Alert, ...]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class QueueCount:
    """How many cases and alerts a lane holds in a state."""

    lane: str
    state: str
    cases: int
    alerts: int
