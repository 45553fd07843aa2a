"""Deciding whole cases: exactly the alerts that somebody was shown, none that came in meanwhile.

A page shows each case with a fingerprint of what waits in it, and the answer brings it back: where
it fits no more, nothing is decided, and what waits now is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi.responses import Response

from desk.access import Person
from desk.forms import read_text
from desk.pages import Visit, messages
from desk.rendering import amount, count, render
from warehouse.errors import UserError
from warehouse.queue_batches import WaitingAlert, fingerprint, read_waiting
from warehouse.queue_decisions import MOST_VERDICTS
from warehouse.queue_records import ConflictError


@dataclass(frozen=True)
class Wish:
    """What somebody wants to say of all that waits in cases."""

    verdict: str
    note: str
    case_ids: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What a wish is about.

    ``decidable`` are the alerts that wait for no second analyst, ``shown`` the fingerprints of
    their cases, and ``changed`` the cases that are not as they were shown.
    """

    decidable: tuple[WaitingAlert, ...]
    shown: dict[int, str]
    changed: tuple[int, ...]


def read_wanted(visit: Visit, case_ids: Sequence[int]) -> Wanted:
    """Give what waits in cases, and which of them are not as the page showed them.

    Raises:
        ConflictError: if nothing waits, or all that does waits for a second analyst.
        UserError: if there are too many.
    """
    waiting = read_waiting(visit.context.queue, case_ids)
    prints = {number: fingerprint(alerts[0], alerts) for number, alerts in waiting.items()}
    changed = [n for n in case_ids if prints.get(n, "") != read_text(visit.form, f"shown-{n}")]
    alerts = tuple(alert for alerts in waiting.values() for alert in alerts)
    decidable = tuple(alert for alert in alerts if not alert.is_proposed)
    if not decidable:
        raise ConflictError(
            "all that waits there waits for a second analyst; open the case to confirm or refuse"
            if alerts
            else "nothing waits there any more, as all of it was decided meanwhile; take another"
        )
    if len(decidable) > MOST_VERDICTS:
        raise UserError(
            f"expected at most {MOST_VERDICTS} alerts at once, got {len(decidable)}; select fewer"
        )
    shown = {alert.case_id: prints[alert.case_id] for alert in decidable}
    return Wanted(decidable, shown, tuple(changed))


def find_as_shown(visit: Visit, case_id: int) -> tuple[WaitingAlert, ...]:
    """Give the alerts of a case that can be decided, if it is as the list showed it.

    Raises:
        ConflictError: if it is not, or all that waits does so for a second analyst.
        UserError: if there are too many.
    """
    wanted = read_wanted(visit, [case_id])
    if wanted.changed:
        total = amount(sum(alert.amount for alert in wanted.decidable))
        raise ConflictError(
            f"case {case_id} has changed since it was shown, and nothing was decided: now "
            f"{count(len(wanted.decidable), 'alert')} over {total} in all can be decided"
        )
    return wanted.decidable


def ask_to_confirm(visit: Visit, person: Person, wish: Wish, wanted: Wanted) -> Response:
    """Say how many alerts and what amount a wish is about, and ask.

    Cases of which nothing can be decided are left out. An answer to a question about something
    else is a conflict, and leads to the question as it is now.
    """
    above = visit.context.settings.second_above
    is_firm = wish.verdict != "unsure" and above is not None
    second = [alert for alert in wanted.decidable if is_firm and alert.amount > (above or 0)]
    is_answer = visit.form.get("confirmed") == "yes"
    return render(
        visit.request,
        "_confirm.html" if visit.is_htmx else "confirm_bulk.html",
        status_code=409 if is_answer else 200,
        view=visit.view,
        wish=wish,
        wanted=wanted,
        total=sum(alert.amount for alert in wanted.decidable),
        left_out=len(wish.case_ids) - len(wanted.shown),
        second=len(second),
        second_above=above,
        is_answer=is_answer,
        **messages(visit, person),
    )
