"""What analysts do on the pages: claim, snooze, decide, confirm, take back.

Each action answers with what changed, for HTMX, or leads back to the page it came from.
"""

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from desk.access import Analyst_, Person, local_path
from desk.pages import (
    GREATEST_NUMBER,
    SEE_OTHER,
    CurrentVisit,
    RowNumber,
    Visit,
    case_page,
    list_page,
    messages,
    waiting_alerts,
)
from desk.rendering import VERDICTS, render
from desk.views import read_day
from warehouse.errors import UserError
from warehouse.queue_batches import MOST_DECISIONS, WaitingAlert, read_last_batch, read_waiting
from warehouse.queue_claims import claim_case, release_case, snooze_case
from warehouse.queue_decisions import (
    Outcome,
    Verdict,
    confirm_proposal,
    decide_alerts,
    refuse_proposal,
)
from warehouse.queue_records import ConflictError
from warehouse.queue_retractions import retract_decisions
from warehouse.queue_story import read_story

LONGEST_NOTE = 2000

router = APIRouter()


@router.post("/cases/decide")
def decide_cases(person: Analyst_, visit: CurrentVisit) -> Response:
    """Decide all that waits in several cases, once who asks has confirmed how much that is."""
    case_ids = read_numbers(visit.form, "case")
    if not case_ids:
        raise UserError("expected at least one case, got none; select some in the list first")
    verdict, note = read_verdict(visit.form), read_note(visit.form)
    waiting = find_decidable(visit, case_ids)
    if visit.form.get("confirmed") != "yes":
        return ask_to_confirm(visit, person, (verdict, note, waiting), len(case_ids))
    verdicts = [Verdict(alert.alert_id, verdict, note) for alert in waiting]
    outcome = decide_alerts(
        visit.context.queue,
        verdicts,
        person.name,
        second_above=visit.context.settings.second_above,
    )
    address = visit.view.more(said="second") if outcome.proposed else visit.view.address
    return RedirectResponse(address, SEE_OTHER)


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
    said = "snoozed" if until else None
    return show_result(visit, person, case_id, said=said)


@router.post("/cases/{case_id}/decide")
def decide(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Decide some alerts of a case, or all that wait."""
    verdict, note = read_verdict(visit.form), read_note(visit.form)
    alerts = read_numbers(visit.form, "alert") or find_waiting(visit, case_id)
    verdicts = [
        Verdict(alert, verdict, note, read_number(visit.form, f"seen-{alert}")) for alert in alerts
    ]
    outcome: Outcome = decide_alerts(
        visit.context.queue,
        verdicts,
        person.name,
        second_above=visit.context.settings.second_above,
    )
    said = "second" if outcome.proposed else None
    return show_result(visit, person, case_id, said=said)


@router.post("/cases/{case_id}/confirm")
def confirm(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Confirm what another analyst said of an alert."""
    confirm_proposal(
        visit.context.queue, read_alert(visit.form), person.name, read_note(visit.form)
    )
    return show_result(visit, person, case_id)


@router.post("/cases/{case_id}/refuse")
def refuse(person: Analyst_, visit: CurrentVisit, case_id: RowNumber) -> Response:
    """Refuse what another analyst said of an alert, or withdraw what one said oneself."""
    refuse_proposal(
        visit.context.queue, read_alert(visit.form), person.name, read_note(visit.form)
    )
    return show_result(visit, person, case_id, said="refused")


@router.post("/decisions/{decision_id}/retract")
def retract(person: Analyst_, visit: CurrentVisit, decision_id: RowNumber) -> Response:
    """Take a decision back; with ``batch``, also those that were said in the same go."""
    is_batch = visit.form.get("batch") == "yes"
    batch = read_last_batch(visit.context.queue, person.name) if is_batch else ()
    numbers = [each.id for each in batch]
    if decision_id not in numbers:
        numbers = [decision_id]
    retract_decisions(visit.context.queue, numbers, person.name, is_lead=person.may("lead"))
    back = local_path(read_text(visit.form, "back") or "/queue")
    return RedirectResponse(with_said(back, "undone"), SEE_OTHER)


def show_result(
    visit: Visit, person: Person, case_id: int, *, said: str | None = None
) -> Response:
    """Show the case, or the list that the form came from, as it is now."""
    is_list = visit.form.get("from") == "queue"
    if not visit.is_htmx:
        view = visit.view
        address = view.address if is_list else f"/cases/{case_id}{view.suffix}"
        return RedirectResponse(with_said(address, said), SEE_OTHER)
    if is_list:
        return list_page(visit, person, template="_list_result.html", said=said)
    return case_page(visit, person, case_id, template="_case_result.html", said=said)


def ask_to_confirm(
    visit: Visit,
    person: Person,
    wish: tuple[str, str, Sequence[WaitingAlert]],
    selected: int,
) -> Response:
    """Say how many alerts and what amount a wish is about, and ask.

    Cases of which all that waits does so for a second analyst are left out.
    """
    verdict, note, waiting = wish
    cases = {alert.case_id: fingerprint(alert) for alert in waiting}
    above = visit.context.settings.second_above
    need_second = [a for a in waiting if above is not None and a.amount > above]
    return render(
        visit.request,
        "_confirm.html" if visit.is_htmx else "confirm_bulk.html",
        view=visit.view,
        verdict=verdict,
        note=note,
        alerts=len(waiting),
        amount=sum(alert.amount for alert in waiting),
        cases=cases,
        left_out=selected - len(cases),
        seconds=0 if verdict == "unsure" else len(need_second),
        **messages(visit, person),
    )


def find_waiting(visit: Visit, case_id: int) -> tuple[int, ...]:
    """Give the alerts of a case that wait, if they are those that who decides saw.

    Raises:
        ConflictError: if the case has changed, or nothing of it waits.
    """
    form = visit.form
    if form.get("from") == "queue":
        return tuple(alert.alert_id for alert in find_decidable(visit, [case_id]))
    alerts = waiting_alerts(read_story(visit.context.queue, case_id))
    seen = [number for number in alerts if f"seen-{number}" in form]
    if not alerts or len(seen) < len(alerts):
        raise ConflictError(f"case {case_id} has changed since it was loaded; look at it again")
    return alerts


def find_decidable(visit: Visit, case_ids: Sequence[int]) -> tuple[WaitingAlert, ...]:
    """Give the alerts of cases that can be decided, if the cases are as the list showed them.

    Raises:
        ConflictError: if a case has changed, or all that waits does so for a second analyst.
        UserError: if there are too many.
    """
    waiting = read_waiting(visit.context.queue, case_ids)
    found = {alert.case_id: fingerprint(alert) for alert in waiting}
    changed = [n for n in case_ids if found.get(n) != visit.form.get(f"count-{n}")]
    if changed:
        names = ", ".join(map(str, changed[:5]))
        raise ConflictError(
            f"what waits has changed since the list was loaded, in case {names}; load it again"
        )
    decidable = tuple(alert for alert in waiting if not alert.is_proposed)
    if not decidable:
        raise ConflictError(
            "all that waits there waits for a second analyst; open the case to confirm or refuse"
        )
    if len(decidable) > MOST_DECISIONS:
        raise UserError(
            f"expected at most {MOST_DECISIONS} alerts at once, got {len(decidable)}; select fewer"
        )
    return decidable


def fingerprint(alert: WaitingAlert) -> str:
    """Write how many alerts a case has and how many wait, by which a change shows."""
    return f"{alert.alert_count}.{alert.waiting_count}"


def read_verdict(form: FormData) -> str:
    """Give the verdict.

    Raises:
        UserError: if it is none.
    """
    verdict = read_text(form, "verdict")
    if verdict not in VERDICTS:
        raise UserError(
            f"expected a verdict of {', '.join(VERDICTS)}, got {verdict!r}; press one of them"
        )
    return verdict


def read_note(form: FormData) -> str:
    """Give the note, which may be empty.

    Raises:
        UserError: if it is too long.
    """
    note = read_text(form, "note")
    if len(note) > LONGEST_NOTE:
        raise UserError(
            f"expected a note of at most {LONGEST_NOTE} letters, got {len(note)}; shorten it"
        )
    return note


def read_alert(form: FormData) -> int:
    """Give the number of the one alert that a form is about.

    Raises:
        UserError: if there is none.
    """
    number = read_number(form, "alert")
    if number is None:
        raise UserError("expected the number of an alert, got none; load the page again")
    return number


def read_number(form: FormData, name: str) -> int | None:
    """Give a number, or None where the field is empty or missing."""
    text = read_text(form, name)
    return to_number(text) if text else None


def read_numbers(form: FormData, name: str) -> list[int]:
    """Give the numbers of a field that may come several times, each once."""
    return list(dict.fromkeys(to_number(str(text)) for text in form.getlist(name)))


def to_number(text: str) -> int:
    """Read the number of a row.

    Raises:
        UserError: if it is none.
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not 0 < number <= GREATEST_NUMBER:
        raise UserError(f"expected a number, got {text[:40]!r}; load the page again")
    return number


def read_text(form: FormData, name: str) -> str:
    """Give a text without blanks around it; empty where it is missing or a file."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def with_said(address: str, said: str | None) -> str:
    """Let the page at an address say what was done."""
    if said is None:
        return address
    path, _, query = address.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("said=")]
    return f"{path}?{'&'.join([*kept, f'said={said}'])}"
