"""The API under /api/v1: the queue for other programs, as JSON, described by OpenAPI."""

from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Depends,
    HTTPException,
    Query,
    Request,
    Response,
)
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from desk.access import Guard, Person, require_scope
from desk.api_records import (
    AlertPage,
    AlertRecord,
    CasePage,
    CaseStoryRecord,
    ClaimRecord,
    ConfirmedRecord,
    DecisionPage,
    FeedPage,
    InvalidRequest,
    OutcomeRecord,
    Problem,
    StatisticsRecord,
)
from desk.api_requests import (
    AlertQuery,
    AnswerRequest,
    CaseQuery,
    DaysQuery,
    DecideRequest,
    NextCaseQuery,
    PageQuery,
    ReleaseQuery,
    refuse_repeated,
)
from desk.context import Context
from desk.forms import RowNumber
from desk.kept_statistics import Statistics
from warehouse import queue_claims, queue_decisions
from warehouse.feed import FeedBlock, read_feed
from warehouse.queue_decisions import Outcome
from warehouse.queue_pages import find_alert, page_of_alerts, page_of_decisions
from warehouse.queue_records import Alert, Decision
from warehouse.queue_search import search_cases
from warehouse.queue_statistics import QueueStatistics
from warehouse.queue_story import CaseStory, read_story

TITLE = "Nightwarden review desk"
VERSION = "1.0"
DESCRIPTION = (
    "The review queue for other programs. Every request needs `Authorization: Bearer TOKEN`; make "
    "a token with `nightwarden desk tokens`. Lists are read page by page: ask again with "
    "`cursor` set to the page's `next_cursor`."
)

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "What was asked for cannot be."},
    401: {"model": Problem, "description": "The token is missing, unknown or no longer good."},
    403: {"model": Problem, "description": "The token's scopes or its analyst's role forbid it."},
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": InvalidRequest, "description": "A parameter or the body breaks a rule."},
    503: {"model": Problem, "description": "The queue cannot be read or written now."},
}
MISSING: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is none with this number."}
}
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "Somebody was faster; look at it again."}
}


class GuardedRoute(APIRoute):
    """Asks its guard before it reads what was sent: nobody else is told what is wrong with it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give what answers; FastAPI reads and parses the body before any dependency."""
        answer = super().get_route_handler()
        guards = [each.call for each in self.dependant.dependencies]

        async def answer_guarded(request: Request) -> Response:
            background = BackgroundTasks()
            for guard in guards:
                if isinstance(guard, Guard):
                    await guard(request, background)  # again as a dependency, it knows who asks
            response = await answer(request)
            if background.tasks:
                if response.background is not None:
                    background.add_task(response.background)
                response.background = background
            return response

        return answer_guarded


router = APIRouter(
    prefix="/api/v1",
    dependencies=[Depends(refuse_repeated)],
    route_class=GuardedRoute,
    responses=PROBLEMS,
    generate_unique_id_function=lambda route: route.name,
)

READS = Depends(require_scope("read", "viewer"))
Decider = Annotated[Person, Depends(require_scope("decide", "analyst"))]
FEEDS = Depends(require_scope("feed", "viewer"))


@router.get(
    "/alerts",
    tags=["alerts"],
    summary="List alerts by number",
    response_model=AlertPage,
    dependencies=[READS],
)
def list_alerts(context: Context, wanted: Annotated[AlertQuery, Query()]) -> dict[str, Any]:
    """List the alerts of a day or a lane, or all, in the order in which they were queued."""
    found = page_of_alerts(
        context.queue,
        after=wanted.cursor,
        limit=wanted.limit + 1,
        day=wanted.day,
        lane=wanted.lane,
    )
    return _page("alerts", found, wanted)


@router.get(
    "/alerts/{alert_id}",
    tags=["alerts"],
    summary="Read an alert",
    response_model=AlertRecord,
    responses=MISSING,
    dependencies=[READS],
)
def read_alert(context: Context, alert_id: RowNumber) -> Alert:
    """Give an alert with its scores, its reasons and its verdict."""
    return find_alert(context.queue, alert_id)


@router.get(
    "/cases",
    tags=["cases"],
    summary="List cases by rank",
    response_model=CasePage,
    dependencies=[READS],
)
def list_cases(context: Context, wanted: Annotated[CaseQuery, Query()]) -> object:
    """List the cases that fit a filter, those that are most worth the time first."""
    return search_cases(
        context.queue,
        wanted.to_filter(),
        rank=wanted.rank,
        cursor=wanted.cursor,
        limit=wanted.limit,
    )


@router.get(
    "/cases/{case_id}",
    tags=["cases"],
    summary="Read a case",
    response_model=CaseStoryRecord,
    responses=MISSING,
    dependencies=[READS],
)
def read_case(context: Context, case_id: RowNumber) -> CaseStory:
    """Give a case with its alerts, their decisions, and the account's story."""
    return read_story(context.queue, case_id)


@router.post(
    "/cases/next",
    tags=["work"],
    summary="Claim the next case",
    response_model=CaseStoryRecord,
    responses={204: {"description": "Nothing is waiting."}},
)
def claim_next_case(
    context: Context, person: Decider, wanted: Annotated[NextCaseQuery, Query()]
) -> CaseStory | Response:
    """Claim the first open case that nobody has; callers at the same time get different ones."""
    case_id = queue_claims.next_case(
        context.queue,
        person.name,
        wanted.to_filter(),
        rank=wanted.rank,
        minutes=context.settings.claim_minutes,
    )
    return Response(status_code=204) if case_id is None else read_story(context.queue, case_id)


@router.post(
    "/cases/{case_id}/claim",
    tags=["work"],
    summary="Claim a case",
    response_model=ClaimRecord,
    responses=MISSING | CONFLICT,
)
def claim_case(context: Context, person: Decider, case_id: RowNumber) -> ClaimRecord:
    """Claim a case, or prolong a claim of one's own."""
    minutes = context.settings.claim_minutes
    until = queue_claims.claim_case(context.queue, case_id, person.name, minutes=minutes)
    return ClaimRecord(case_id=case_id, claimed_by=person.name, claimed_until=until)


@router.delete(
    "/cases/{case_id}/claim",
    tags=["work"],
    summary="Give a claim back",
    status_code=204,
    responses=MISSING | CONFLICT,
)
def release_case(
    context: Context,
    person: Decider,
    case_id: RowNumber,
    wanted: Annotated[ReleaseQuery, Query()],
) -> None:
    """Give one's claim back, or take another's away, as a lead may.

    Raises:
        HTTPException: if somebody who is no lead forces it.
    """
    if wanted.force and not person.may("lead"):
        raise HTTPException(
            403, f"only a lead may take a claim away; {person.name} is {person.role}"
        )
    queue_claims.release_case(context.queue, case_id, person.name, force=wanted.force)


@router.get(
    "/decisions",
    tags=["decisions"],
    summary="List decisions by number",
    response_model=DecisionPage,
    dependencies=[READS],
)
def list_decisions(context: Context, wanted: Annotated[PageQuery, Query()]) -> dict[str, Any]:
    """List decisions in the order in which they were made, those taken back among them."""
    found = page_of_decisions(context.queue, after=wanted.cursor, limit=wanted.limit + 1)
    return _page("decisions", found, wanted)


@router.post(
    "/decisions",
    tags=["decisions"],
    summary="Decide alerts",
    status_code=201,
    response_model=OutcomeRecord,
    responses=MISSING | CONFLICT,
)
def decide_alerts(
    context: Context, person: Decider, asked: Annotated[DecideRequest, Body()]
) -> Outcome:
    """Record the token's analyst's verdicts, all or none of them.

    Above the amount that needs a second analyst, a verdict becomes a proposal.
    """
    verdicts = [queue_decisions.Verdict(**vars(verdict)) for verdict in asked.verdicts]
    second_above = context.settings.second_above
    return queue_decisions.decide_alerts(
        context.queue, verdicts, person.name, second_above=second_above
    )


@router.delete(
    "/decisions/{decision_id}",
    tags=["decisions"],
    summary="Take a decision back",
    status_code=204,
    responses=MISSING | CONFLICT,
)
def retract_decision(context: Context, person: Decider, decision_id: RowNumber) -> None:
    """Take a decision back within five minutes: one's own, or any as a lead."""
    queue_decisions.retract_decision(
        context.queue, decision_id, person.name, is_lead=person.may("lead")
    )


@router.post(
    "/proposals/{proposal_id}/confirm",
    tags=["decisions"],
    summary="Confirm a proposal",
    status_code=201,
    response_model=ConfirmedRecord,
    responses=MISSING | CONFLICT,
)
def confirm_proposal(
    context: Context,
    person: Decider,
    proposal_id: RowNumber,
    asked: Annotated[AnswerRequest, Body()],
) -> ConfirmedRecord:
    """Make a decision of what another analyst proposed; a case tells its proposals' numbers."""
    number = queue_decisions.confirm_proposal(context.queue, proposal_id, person.name, asked.note)
    return ConfirmedRecord(decision_id=number)


@router.post(
    "/proposals/{proposal_id}/refuse",
    tags=["decisions"],
    summary="Refuse a proposal",
    status_code=204,
    responses=MISSING | CONFLICT,
)
def refuse_proposal(
    context: Context,
    person: Decider,
    proposal_id: RowNumber,
    asked: Annotated[AnswerRequest, Body()],
) -> None:
    """Turn down what another analyst proposed, or withdraw one's own; the alert goes on waiting."""
    queue_decisions.refuse_proposal(context.queue, proposal_id, person.name, asked.note)


@router.get(
    "/stats",
    tags=["statistics"],
    summary="Count what the queue brought",
    response_model=StatisticsRecord,
    dependencies=[READS],
)
async def read_stats(
    statistics: Statistics, wanted: Annotated[DaysQuery, Query()]
) -> QueueStatistics:
    """Count alerts, decisions and precision of some days; a count is kept for a minute."""
    return await statistics.read(wanted.start, wanted.end)


@router.get(
    "/feed",
    tags=["feed"],
    summary="Read the changes",
    response_model=FeedPage,
    dependencies=[FEEDS],
)
def read_changes(context: Context, wanted: Annotated[PageQuery, Query()]) -> FeedBlock:
    """Give each change exactly once and in order to whoever keeps the cursor."""
    return read_feed(context.queue, cursor=wanted.cursor, limit=wanted.limit)


@router.get(
    "/openapi.json", tags=["description"], summary="Describe the API", dependencies=[READS]
)
def read_openapi() -> dict[str, Any]:
    """Give this description."""
    return describe_api()


@cache
def describe_api() -> dict[str, Any]:
    """Give the OpenAPI description of all endpoints, which need a token each."""
    description = get_openapi(
        title=TITLE, version=VERSION, description=DESCRIPTION, routes=router.routes
    )
    schemes = {"token": {"type": "http", "scheme": "bearer"}}
    description["components"]["securitySchemes"] = schemes
    return description | {"security": [{"token": []}]}


def _page(
    name: str, found: Sequence[Alert] | Sequence[Decision], wanted: PageQuery
) -> dict[str, Any]:
    """Cut a list that was read one row too far into a page."""
    rows = found[: wanted.limit]
    return {
        name: rows,
        "next_cursor": rows[-1].id if rows else wanted.cursor,
        "has_more": len(found) > wanted.limit,
    }
