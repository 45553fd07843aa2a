"""What the API gives: its public form, which changes only with its version."""

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Lane = Literal["nightly", "backfill", "audit"]
Verdict = Literal["fraud", "genuine", "unsure"]


class Given(BaseModel):
    """What the API gives: read from the queue's records."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Problem(Given):
    """Why a request was refused."""

    detail: str = Field(description="What was expected, what was found, what to do.")


class BrokenRule(Given):
    """What is wrong with one value."""

    loc: list[str | int] = Field(description="Where it is: query, path or body, and the name.")
    msg: str
    type: str


class InvalidRequest(Given):
    """Which values break a rule."""

    detail: list[BrokenRule]


class ReasonRecord(Given):
    """Why a transaction stands out."""

    feature: str
    value: float | str | None
    usual: float | str | None = Field(description="The value that is usual for the account.")
    text: str = Field(description="A sentence for people.")


class AlertRecord(Given):
    """A transaction to review."""

    id: int
    case_id: int
    transaction_id: str
    event_date: date
    occurred_at: datetime
    account_id: str
    merchant_id: str
    amount: float
    lane: Lane
    score: float = Field(description="Higher is more anomalous.")
    rank_of_day: int
    members: dict[str, float] = Field(description="Scores of the ensemble's members.")
    reasons: list[ReasonRecord]
    model_version: str
    created_at: datetime
    inclusion_probability: float = Field(description="Its chance of being queued.")
    probability: float | None = Field(description="Of fraud, where enough frauds were known.")
    snapshot_id: int | None = Field(description="The lake's snapshot that was scored.")
    verdict: Verdict | None = Field(description="The newest that stands.")


class AlertPage(Given):
    """Alerts in the order of their numbers."""

    alerts: list[AlertRecord]
    next_cursor: int
    has_more: bool


class CaseRecord(Given):
    """A case: alerts of one account in one lane."""

    id: int
    account_id: str
    lane: Lane
    state: Literal["open", "closed"]
    opened_for: date
    created_at: datetime
    updated_at: datetime
    alert_count: int
    waiting_count: int
    score: float
    amount_at_risk: float
    amount: float
    priority: float = Field(description="Sum of score times amount.")
    expected_loss: float | None = Field(description="Sum of probability times amount.")
    first_event_date: date
    last_event_date: date
    awaits_second: bool = Field(description="Whether a verdict waits for a second analyst.")
    claimed_by: str | None
    claimed_until: datetime | None
    snoozed_until: date | None
    reasons: list[str] = Field(description="Of its foremost alert, the strongest first.")


class CasePage(Given):
    """Cases in the order of the rank; without ``next_cursor`` there are no more."""

    cases: list[CaseRecord]
    next_cursor: str | None


class DecisionRecord(Given):
    """One thing that an analyst said about one alert."""

    id: int
    alert_id: int
    case_id: int
    transaction_id: str
    event_date: date
    account_id: str
    merchant_id: str
    verdict: Verdict
    analyst: str
    note: str
    decided_at: datetime
    proposed_by: str | None = Field(description="The first analyst, where a second confirmed.")
    is_retracted: bool = Field(description="As of now; the feed tells when one is taken back.")


class DecisionPage(Given):
    """Decisions in the order of their numbers."""

    decisions: list[DecisionRecord]
    next_cursor: int
    has_more: bool


class ProposalRecord(Given):
    """A verdict that waits for a second analyst."""

    id: int
    alert_id: int
    verdict: Verdict
    analyst: str
    note: str
    proposed_at: datetime


class StoryTransactionRecord(Given):
    """One of the account's transactions."""

    transaction_id: str
    event_date: date
    occurred_at: datetime
    merchant_id: str
    amount: float
    is_new_merchant: bool
    alert_id: int | None
    case_id: int | None


class EarlierCaseRecord(Given):
    """Another case of the same account."""

    id: int
    lane: Lane
    state: Literal["open", "closed"]
    opened_for: date
    alert_count: int
    frauds: int
    genuine: int
    unsure: int


class CaseStoryRecord(Given):
    """Everything that an analyst sees of a case."""

    summary: CaseRecord
    alerts: list[AlertRecord]
    decisions: list[DecisionRecord]
    proposals: dict[int, ProposalRecord] = Field(description="By the alert's number.")
    transactions: list[StoryTransactionRecord]
    usual_hours: list[int] = Field(description="Transactions by hour, in UTC.")
    usual_amount: float | None = Field(description="The median of those without an alert.")
    high_amount: float | None = Field(description="What 95 % of those do not exceed.")
    new_merchants: list[str]
    earlier_cases: list[EarlierCaseRecord]


class ClaimRecord(Given):
    """Who works on a case, and until when."""

    case_id: int
    claimed_by: str
    claimed_until: datetime


class OutcomeRecord(Given):
    """What verdicts led to: decisions, proposals for a second analyst, closed cases, by number."""

    decided: list[int]
    proposed: list[int]
    closed_cases: list[int]


class ConfirmedRecord(Given):
    """What became of a proposal that a second analyst confirmed."""

    decision_id: int


class AlertFactsRecord(Given):
    """What never changes of an alert."""

    id: int
    transaction_id: str
    event_date: date
    occurred_at: datetime
    account_id: str
    merchant_id: str
    amount: float
    lane: Lane
    score: float
    probability: float | None
    model_version: str
    reasons: list[str]


class ChangeRecord(Given):
    """One change of the queue."""

    id: int
    happened_at: datetime
    kind: str
    actor: str
    case_id: int | None
    alert_id: int | None
    details: dict[str, JsonValue]
    alert: AlertFactsRecord | None = Field(description="The alert that it is about.")


class FeedPage(Given):
    """Changes in their order, each once; go on from ``next_cursor``, now or later."""

    changes: list[ChangeRecord]
    next_cursor: int
    has_more: bool


class VerdictCountRecord(Given):
    """Alerts, and what analysts said about them."""

    alerts: int
    decided: int
    frauds: int
    genuine: int
    unsure: int
    precision: float | None = Field(description="Frauds among those called fraud or genuine.")


class DayCountRecord(VerdictCountRecord):
    """The alerts of one day."""

    day: date


class MemberCountRecord(Given):
    """The decided alerts in which a member's score was the highest."""

    member: str
    decided: int
    frauds: int
    precision: float | None


class AgeBandRecord(Given):
    """How many open cases are so old."""

    label: str
    cases: int


class AnalystCountRecord(Given):
    """What one analyst decided."""

    analyst: str
    decisions: int
    frauds: int
    genuine: int
    unsure: int
    median_minutes: float | None
    per_day: float | None


class StatisticsRecord(Given):
    """What the queue brought, and what became of it; retracted decisions never count."""

    counted_at: datetime = Field(description="Up to a minute ago; figures are of that moment.")
    by_day: list[DayCountRecord]
    totals: VerdictCountRecord
    audit: VerdictCountRecord
    by_member: list[MemberCountRecord]
    open_ages: list[AgeBandRecord]
    analysts: list[AnalystCountRecord]
