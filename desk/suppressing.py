"""The page of suppressions, and what leads do there."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse, Response

from desk.access import Lead, Viewer, local_path
from desk.forms import RowNumber, read_text
from desk.pages import SEE_OTHER, CurrentVisit, Deed, messages
from desk.rendering import render, today
from desk.views import read_day
from warehouse.suppressions import KINDS, MOST_DAYS, lift_suppression, list_suppressions, suppress

USUAL_DAYS = 30

router = APIRouter()


@router.get("/suppressions")
def show_suppressions(
    person: Viewer,
    visit: CurrentVisit,
    history: Annotated[str, Query(alias="all", max_length=3)] = "",
) -> Response:
    """Show who and what is left alone, until when and why; with ``all``, also what has ended."""
    day = today(visit.context.clock())
    found = list_suppressions(visit.context.queue, active_only=not history)
    return render(
        visit.request,
        "suppressions.html",
        suppressions=found,
        with_history=bool(history),
        kinds=KINDS,
        today=day,
        first=day + timedelta(days=1),
        usual=day + timedelta(days=USUAL_DAYS),
        last=day + timedelta(days=MOST_DAYS),
        **messages(visit, person),
    )


@router.post("/suppressions")
def add_suppression(person: Lead, visit: CurrentVisit) -> Response:
    """Suppress an account or a merchant until a day."""
    form = visit.form
    until = read_day(read_text(form, "until"))
    kind, value, reason = (read_text(form, name) for name in ("kind", "value", "reason"))
    suppress(visit.context.queue, kind, value, until, reason, person.name)
    back = local_path(read_text(form, "back") or "/suppressions")
    return RedirectResponse(Deed("suppressed").told_at(back), SEE_OTHER)


@router.post("/suppressions/{suppression_id}/lift")
def lift(person: Lead, visit: CurrentVisit, suppression_id: RowNumber) -> Response:
    """End a suppression now."""
    lift_suppression(visit.context.queue, suppression_id, person.name)
    return RedirectResponse(Deed("lifted").told_at("/suppressions"), SEE_OTHER)
