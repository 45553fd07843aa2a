"""The queue's page and the case's page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any, Self
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from desk.access import Analyst_, Person, Viewer, to_local_path
from desk.context import Context, DeskContext
from desk.forms import RowNumber
from desk.rendering import count, render, today
from desk.story_pictures import draw_hours, draw_members, draw_timeline
from desk.views import RANK_NAMES, View
from warehouse.queue_batches import (
    StandingDecision,
    fingerprint,
    read_batch,
    read_last_batch,
    read_waiting,
)
from warehouse.queue_claims import next_case
from warehouse.queue_records import CaseSummary
from warehouse.queue_search import count_cases, list_lanes_models, search_cases
from warehouse.queue_statements import UNDO_WINDOW
from warehouse.queue_story import CaseStory, read_story
from warehouse.queue_work import check_readable

CASES_A_PAGE = 25
MOST_PLACES = 10_000_000  # a place in the list is shown, never counted on
SEE_OTHER = 303

SAID = {
    "nothing": "Nothing is waiting in this view. The next night's alerts come here.",
    "second": "Noted. It waits for a second analyst.",
    "partly": "Decided, but for large amounts: those wait for a second analyst.",
    "undone": "Taken back. It is as it was before.",
    "refused": "The proposal is gone. The alert is as it was before.",
    "snoozed": "Snoozed. The case comes back on its day.",
    "suppressed": "Suppressed. Matching alerts are logged, not queued.",
    "lifted": "Lifted. The next night's alerts are queued again.",
}
NOTHING_DECIDED = ("second", "refused")  # after these, an undo of something older would mislead

router = APIRouter()


@dataclass(frozen=True)
class Visit:
    """What somebody asks for: the view that the address carries, and the form that was sent."""

    request: Request
    context: DeskContext
    view: View
    form: FormData

    @property
    def is_htmx(self) -> bool:
        """Whether HTMX asks, for a part of the page."""
        return "hx-request" in self.request.headers


@dataclass(frozen=True)
class Deed:
    """What somebody has just done: a word of ``SAID``, and a decision that was made, if any."""

    said: str = ""
    decision_id: int | None = None

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Self:
        """Take what an address says of it; what makes no sense is nothing."""
        done = values.get("done", "")
        is_number = done.isascii() and done.isdigit() and len(done) < 19
        return cls(values.get("said", ""), int(done) if is_number else None)

    def told_at(self, address: str) -> str:
        """Let the page at an address tell of this, and of nothing else."""
        path, _, query = address.partition("?")
        parts = [part for part in query.split("&") if part]
        parts = [part for part in parts if not part.startswith(("said=", "done="))]
        told = {"said": self.said, "done": self.decision_id}
        named = {name: value for name, value in told.items() if value}
        parts += [urlencode(named)] if named else []
        return f"{path}?{'&'.join(parts)}" if parts else path


async def read_visit(request: Request, context: Context) -> Visit:
    """Give what is asked for; who asks must be known before.

    Raises:
        UserError: if the form brings what is no text, as charsets such as UTF-7 can.
    """
    form = await request.form()
    for name, value in form.multi_items():
        check_readable("a form", f"{name}{value}")
    return Visit(request, context, View.read(request.query_params), form)


CurrentVisit = Annotated[Visit, Depends(read_visit)]


@router.get("/")
def show_start(_person: Viewer) -> Response:
    """Lead to the queue."""
    return RedirectResponse("/queue", SEE_OTHER)


@router.get("/queue")
def show_queue(
    person: Viewer,
    visit: CurrentVisit,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
    place: Annotated[int, Query(ge=1, le=MOST_PLACES)] = 1,
) -> Response:
    """Show the ranked list; HTMX gets the list alone, or the rows that follow."""
    if not visit.is_htmx:
        return list_page(visit, person, cursor=cursor, place=place)
    if cursor is not None:
        return list_page(visit, person, template="_rows.html", cursor=cursor, place=place)
    response = list_page(visit, person, template="_list.html")
    if visit.request.headers.get("hx-trigger") != "list":  # which shows the same list again
        response.headers["HX-Push-Url"] = visit.view.address
    return response


@router.post("/queue/next")
def take_next(person: Analyst_, visit: CurrentVisit) -> Response:
    """Claim the first case that nobody works on, and show it."""
    context, view = visit.context, replace(View.read(visit.form), state="open", mine="")
    case_id = next_case(
        context.queue,
        person.name,
        view.wanted(person.name),
        rank=view.rank,
        minutes=context.settings.claim_minutes,
    )
    address = view.more(said="nothing") if case_id is None else f"/cases/{case_id}{view.suffix}"
    return RedirectResponse(address, SEE_OTHER)


@router.get("/cases/{case_id}")
def show_case(person: Viewer, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Show a case; HTMX gets what may have changed of the page."""
    return case_page(
        visit, person, case_id, template="_case.html" if visit.is_htmx else "case.html"
    )


def list_page(
    visit: Visit,
    person: Person,
    *,
    template: str = "queue.html",
    cursor: str | None = None,
    place: int = 1,
    deed: Deed | None = None,
) -> Response:
    """Render the list, or a part of it."""
    queue, view = visit.context.queue, visit.view
    wanted = view.wanted(person.name)
    page = search_cases(queue, wanted, rank=view.rank, cursor=cursor, limit=CASES_A_PAGE)
    values: dict[str, Any] = {"page": page, "place": place, "view": view, "ranks": RANK_NAMES}
    values["shown"] = fingerprint_cases(visit, page.cases) if person.may("analyst") else {}
    if template != "_rows.html":
        values |= {"tabs": view.tabs(count_cases(queue, person.name)), "chips": view.chips()}
        values |= messages(visit, person, deed)
    if template == "queue.html":
        values["choices"] = list_lanes_models(queue)
    return render(visit.request, template, **values)


def case_page(
    visit: Visit,
    person: Person,
    case_id: int,
    *,
    template: str = "case.html",
    deed: Deed | None = None,
) -> Response:
    """Render the case, or what may have changed of its page."""
    story = read_story(visit.context.queue, case_id)
    now = visit.context.clock()
    return render(
        visit.request,
        template,
        story=story,
        view=visit.view,
        timeline=draw_timeline(story),
        hours=draw_hours(story),
        members={alert.id: draw_members(alert) for alert in story.alerts},
        latest={d.alert_id: d for d in story.decisions if not d.is_retracted},
        waiting=waiting_alerts(story),
        undo_since=now - UNDO_WINDOW,
        tomorrow=today(now) + timedelta(days=1),
        **messages(visit, person, deed),
    )


def fingerprint_cases(visit: Visit, cases: Sequence[CaseSummary]) -> dict[int, str]:
    """Give the fingerprints of the cases in a list, by which their verdicts are checked."""
    waiting = read_waiting(visit.context.queue, [each.id for each in cases if each.waiting_count])
    return {each.id: fingerprint(each, waiting.get(each.id, ())) for each in cases}


def messages(visit: Visit, person: Person, deed: Deed | None = None) -> dict[str, Any]:
    """Give what the page tells of: what was just done, and what can be taken back.

    ``back`` is where an undo leads to. Without a deed, the address may tell of one.
    """
    request = visit.request
    deed = deed or Deed.read(request.query_params)
    batch = find_batch(visit, person, deed)
    where = request.headers.get("hx-current-url") or str(request.url)
    return {
        "said": SAID.get(deed.said),
        "batch": batch,
        "batch_text": describe_batch(batch),
        "undo_ends": batch[0].decided_at + UNDO_WINDOW if batch else None,
        "back": to_local_path(where),
    }


def find_batch(visit: Visit, person: Person, deed: Deed) -> tuple[StandingDecision, ...]:
    """Give what can be taken back: what was just decided, or else what the person decided last."""
    queue = visit.context.queue
    if deed.decision_id is not None:
        return read_batch(queue, deed.decision_id, person.name)
    if deed.said in NOTHING_DECIDED or not person.may("analyst"):
        return ()
    return read_last_batch(queue, person.name)


def waiting_alerts(story: CaseStory) -> tuple[int, ...]:
    """Give the alerts of a case that have no verdict, proposed ones left out."""
    return tuple(
        alert.id
        for alert in story.alerts
        if alert.verdict is None and alert.id not in story.proposals
    )


def describe_batch(batch: tuple[StandingDecision, ...]) -> str:
    """Say what was decided last.

    Example:
        >>> describe_batch(())
        ''
    """
    if not batch:
        return ""
    cases = {each.case_id: each.case_state for each in batch}
    verdicts = {each.verdict for each in batch}
    verdict = verdicts.pop() if len(verdicts) == 1 else "decided"
    if len(cases) > 1:
        return f"{count(len(batch), 'alert')} in {len(cases)} cases: {verdict}."
    (case_id, state), *_ = cases.items()
    if state == "closed":
        return f"Case {case_id} closed: {verdict}."
    return f"{count(len(batch), 'alert')} of case {case_id}: {verdict}."
