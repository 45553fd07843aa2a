"""What analysts do on the pages: claim, snooze, decide, confirm, take back.

Each action answers with what changed, for HTMX, or leads back to the page it came from.
"""

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from desk.access import Analyst_, Person, local_path
from desk.asking import Wish, ask_to_confirm, find_as_shown, read_wanted
from desk.forms import (
    RowNumber,
    read_note,
    read_number,
    read_numbers,
    read_proposal,
    read_text,
    read_verdict,
)
from desk.pages import (
    SEE_OTHER,
    CurrentVisit,
    Deed,
    Visit,
    case_page,
    list_page,
    waiting_alerts,
)
from desk.views import read_day
from warehouse.errors import UserError
from warehouse.queue_batches import read_batch
from warehouse.queue_claims import claim_case, release_case, snooze_case
from warehouse.queue_decisions import Verdict, confirm_proposal, decide_alerts, refuse_proposal
from warehouse.queue_records import ConflictError
from warehouse.queue_retractions import retract_decisions
from warehouse.queue_story import read_story

router = APIRouter()


@router.post("/cases/decide")
def decide_cases(person: Analyst_, visit: CurrentVisit) -> Response:
    """Decide all that waits in several cases, once who asks has confirmed how much that is."""
    wish = Wish(
        read_verdict(visit.form), read_note(visit.form), tuple(read_numbers(visit.form, "case"))
    )
    if not wish.case_ids:
        raise UserError("expected at least one case, got none; select some in the list first")
    wanted = read_wanted(visit, wish.case_ids)
    if wanted.changed or visit.form.get("confirmed") != "yes":
        return ask_to_confirm(visit, person, wish, wanted)
    verdicts = [Verdict(alert.alert_id, wish.verdict, wish.note) for alert in wanted.decidable]
    deed = record(visit, person, verdicts)
    return RedirectResponse(deed.told_at(visit.view.address), SEE_OTHER)


@router.post("/cases/{case_id}/claim")
def claim(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Claim a case, or prolong the claim."""
    claim_case(
        visit.context.queue, case_id, person.name, minutes=visit.context.settings.claim_minutes
    )
    return show_result(visit, person, case_id)


@router.post("/cases/{case_id}/release")
def release(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Give a claim back; a lead ends another's, too."""
    release_case(visit.context.queue, case_id, person.name, force=person.may("lead"))
    return show_result(visit, person, case_id)


@router.post("/cases/{case_id}/snooze")
def snooze(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Put a case off until a day, or wake it up where no day is given."""
    day = read_text(visit.form, "until")
    until = read_day(day) if day else None
    snooze_case(visit.context.queue, case_id, person.name, until, read_note(visit.form))
    return show_result(visit, person, case_id, Deed("snoozed" if until else ""))


@router.post("/cases/{case_id}/decide")
def decide(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Decide some alerts of a case, or all that wait."""
    verdict, note = read_verdict(visit.form), read_note(visit.form)
    alerts = read_numbers(visit.form, "alert") or find_waiting(visit, case_id)
    verdicts = [
        Verdict(alert, verdict, note, read_number(visit.form, f"seen-{alert}")) for alert in alerts
    ]
    return show_result(visit, person, case_id, record(visit, person, verdicts))


@router.post("/cases/{case_id}/confirm")
def confirm(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Confirm what another analyst said of an alert."""
    number = confirm_proposal(
        visit.context.queue, read_proposal(visit.form), person.name, read_note(visit.form)
    )
    return show_result(visit, person, case_id, Deed(decision_id=number))


@router.post("/cases/{case_id}/refuse")
def refuse(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Refuse what another analyst said of an alert, or withdraw what one said oneself."""
    refuse_proposal(
        visit.context.queue, read_proposal(visit.form), person.name, read_note(visit.form)
    )
    return show_result(visit, person, case_id, Deed("refused"))


@router.post("/decisions/{decision_id}/retract")
def retract(person: Analyst_, visit: CurrentVisit, decision_id: RowNumber) -> Response:
    """Take a decision back; with ``batch``, also those that were said in the same go."""
    queue = visit.context.queue
    is_batch = visit.form.get("batch") == "yes"
    batch = read_batch(queue, decision_id, person.name) if is_batch else ()
    numbers = [each.id for each in batch] or [decision_id]
    retract_decisions(queue, numbers, person.name, is_lead=person.may("lead"))
    back = local_path(read_text(visit.form, "back") or "/queue")
    return RedirectResponse(Deed("undone").told_at(back), SEE_OTHER)


def record(visit: Visit, person: Person, verdicts: list[Verdict]) -> Deed:
    """Record verdicts, and give what the next page tells of it."""
    settings = visit.context.settings
    outcome = decide_alerts(
        visit.context.queue, verdicts, person.name, second_above=settings.second_above
    )
    if not outcome.proposed:
        return Deed(decision_id=outcome.decided[0])
    if outcome.decided:
        return Deed("partly", outcome.decided[0])
    return Deed("second")


def show_result(visit: Visit, person: Person, case_id: int, deed: Deed | None = None) -> Response:
    """Show the case, or the list that the form came from, as it is now."""
    deed = deed or Deed()
    is_list = visit.form.get("from") == "queue"
    if not visit.is_htmx:
        view = visit.view
        address = view.address if is_list else f"/cases/{case_id}{view.suffix}"
        return RedirectResponse(deed.told_at(address), SEE_OTHER)
    if is_list:
        return list_page(visit, person, template="_list_result.html", deed=deed)
    return case_page(visit, person, case_id, template="_case_result.html", deed=deed)


def find_waiting(visit: Visit, case_id: int) -> tuple[int, ...]:
    """Give the alerts of a case that wait, if they are those that who decides saw.

    Raises:
        ConflictError: if the case has changed, or nothing of it waits.
    """
    form = visit.form
    if form.get("from") == "queue":
        return tuple(alert.alert_id for alert in find_as_shown(visit, case_id))
    alerts = waiting_alerts(read_story(visit.context.queue, case_id))
    seen = {name for name in form if name.startswith("seen-")}
    if not alerts or seen != {f"seen-{number}" for number in alerts}:
        raise ConflictError(
            f"case {case_id} has changed since it was loaded, and nothing was decided; look at "
            "it again"
        )
    return alerts
