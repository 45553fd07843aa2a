"""What goes wrong, said in words: as a page, as a fragment of one, or as JSON for programs."""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from desk.access import wants_page
from desk.rendering import render
from warehouse.errors import UserError, WarehouseError
from warehouse.queue_records import ConflictError, NotInQueueError

logger = logging.getLogger(__name__)

UNEXPECTED = "The desk met an error that it did not expect. It is noted in the log of the desk."

TITLES = {
    400: "That cannot be done",
    401: "Sign in first",
    403: "You may not do that",
    404: "There is no such page",
    405: "That cannot be asked here",
    409: "Somebody was faster",
    413: "That is too much at once",
    415: "That is in a form that cannot be read",
    422: "Something is missing or wrong",
    429: "That was too often",
    500: "The desk failed",
    503: "The queue does not answer",
}

ADVICE = {
    401: "Sign in, and do it again.",
    403: "If you need to do this, ask a lead or whoever runs the desk.",
    404: "Check the address, or go back to the queue.",
    405: "Go back to the queue, and try it from there.",
    409: "Look at what is there now, then decide.",
    413: "Send less at a time.",
    429: "Wait a little, and try again.",
    500: "Try again; if it stays, tell whoever runs the desk what you did and when.",
    503: "Try again in a moment; if it stays, tell whoever runs the desk.",
}

STATUS = (
    (NotInQueueError, 404),
    (ConflictError, 409),
    (WarehouseError, 503),
    (UserError, 400),
)


def add_error_pages(app: FastAPI) -> None:
    """Let the application answer errors in words; none shows a traceback."""
    app.add_exception_handler(UserError, answer_user_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)


async def answer_user_error(request: Request, error: Exception) -> Response:
    """Answer what a person can mend, or the queue's refusal."""
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        logger.error("%s", error)  # it names paths, which are for whoever runs the desk
        return answer(request, status, "The queue cannot be read or written at the moment.")
    return answer(request, status, str(error))


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer what a guard, a route or the framework refused; a redirect stays one."""
    if not isinstance(error, HTTPException):
        raise TypeError from error
    if error.status_code < HTTPStatus.BAD_REQUEST:
        return Response(status_code=error.status_code, headers=error.headers)
    status, detail = error.status_code, str(error.detail)
    is_bare = detail == HTTPStatus(status).phrase and not is_for_program(request)
    return answer(request, status, "" if is_bare else detail, error.headers)


async def answer_invalid(request: Request, error: Exception) -> Response:
    """Answer a request whose values do not have the form that they must have."""
    if not isinstance(error, RequestValidationError):
        raise TypeError from error
    problems = [
        {key: problem[key] for key in ("loc", "msg", "type")} for problem in error.errors()
    ]
    if is_for_program(request):
        return JSONResponse({"detail": problems}, status_code=422)
    told = [f"{' '.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in problems]
    return answer(request, 422, "; ".join(told))


def answer(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Say what went wrong and what to do, in the way that who asks understands."""
    if is_for_program(request):
        return JSONResponse({"detail": detail}, status_code=status, headers=dict(headers or {}))
    title = TITLES.get(status, HTTPStatus(status).phrase)
    values = {"title": title, "detail": detail, "advice": ADVICE.get(status, "")}
    if "hx-request" in request.headers:
        response: Response = render(request, "message.html", status_code=status, **values)
        response.headers.update({"HX-Retarget": "#messages", "HX-Reswap": "innerHTML"})
    else:
        response = render(request, "error.html", status_code=status, **values)
    response.headers.update(headers or {})
    return response


def answer_unexpected(request: Request) -> Response:
    """Answer an error that nobody expected; the log has it."""
    try:
        return answer(request, 500, UNEXPECTED)
    except Exception:
        logger.exception("the page that tells of an error failed itself")
        return PlainTextResponse(UNEXPECTED, status_code=500)


def is_for_program(request: Request) -> bool:
    """Tell whether a program asks, which wants JSON."""
    if request.url.path.startswith("/api/"):
        return True
    return "hx-request" not in request.headers and not wants_page(request)
