"""Signing in and out."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from desk.access import (
    Gate,
    Viewer,
    cookie_name,
    get_gate,
    identify,
    local_path,
    session_token,
)
from desk.context import Context, DeskContext
from desk.peers import peer_address, to_household
from desk.rendering import render
from warehouse.analysts import LOCKED_FOR, WRONG_IN_A_ROW, Analyst, check_password
from warehouse.sessions import NewSession, end_session, start_session

PROBLEM = (
    "Name and password do not fit, or the account is disabled or locked: after "
    f"{WRONG_IN_A_ROW} wrong passwords it is, for {LOCKED_FOR.seconds // 60} minutes."
)

CLEAR_TEXT = (
    "Passwords must not go over the network in clear, and yours would: you came from {address} "
    "without TLS. Open the desk with https://, or through its proxy. Whoever runs it sets "
    "desk.tls_certificate and desk.tls_key, or names the proxy in desk.trusted_proxies; "
    "nightwarden desk --insecure lets you sign in all the same."
)

router = APIRouter(include_in_schema=False)


@router.get("/sign-in", response_model=None)
async def show_sign_in(
    request: Request,
    background: BackgroundTasks,
    target: Annotated[str, Query(alias="next")] = "/",
) -> Response:
    """Show the form; who is signed in already goes on."""
    if await identify(request, background, takes_tokens=False) is not None:
        return RedirectResponse(local_path(target), status_code=303)
    refuse_clear_text(request)  # before anybody types a password
    return show_form(request, target)


@router.post("/sign-in", response_model=None)
async def sign_in(
    request: Request,
    context: Context,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    target: Annotated[str, Form(alias="next")] = "/",
) -> Response:
    """Begin a session with a new token, whatever the browser had before.

    Passwords are hashed in threads of their own, so that others need not wait for them.
    """
    refuse_clear_text(request)
    gate = get_gate(request)
    address = gate.proxies.client_address(request)
    await_attempt(gate, address)
    begun = await to_thread.run_sync(
        begin_session, context, request, name, password, address, limiter=gate.hashing
    )
    if begun is None:
        shown = name.encode(errors="replace").decode()  # forms may bring halves of letters
        return show_form(request, target, name=shown, problem=PROBLEM, status_code=401)
    gate.attempts.give_back(to_household(address))
    response = RedirectResponse(local_path(target), status_code=303)
    set_cookie(response, request, begun)
    return response


@router.post("/sign-out", response_model=None)
def sign_out(request: Request, context: Context, person: Viewer) -> Response:
    """End the session; whom a proxy signs in has none, and is signed out there."""
    token = session_token(request)
    if token is not None:
        end_session(context.queue, token, person.name)
    response = RedirectResponse("/sign-in", status_code=303)
    name = cookie_name(request)
    is_secure = get_gate(request).proxies.is_secure(request)
    response.delete_cookie(name, path="/", secure=is_secure, httponly=True, samesite="lax")
    return response


def refuse_clear_text(request: Request) -> None:
    """Refuse to sign somebody in whose password others on the network could read.

    Raises:
        HTTPException: 403, unless it came by TLS, from this machine or from a trusted proxy.
    """
    gate = get_gate(request)
    if not gate.takes_clear_text and not gate.proxies.is_private(request):
        raise HTTPException(403, CLEAR_TEXT.format(address=peer_address(request)))


def await_attempt(gate: Gate, address: str) -> None:
    """Take one of the attempts that an address has.

    Raises:
        HTTPException: 429 if it has none left, with ``Retry-After``.
    """
    seconds = gate.attempts.take(to_household(address))
    if seconds > 0:
        headers = {"Retry-After": str(int(seconds) + 1)}
        raise HTTPException(429, "Too many attempts to sign in came from your address.", headers)


def begin_session(
    context: DeskContext, request: Request, name: str, password: str, address: str
) -> NewSession | None:
    """Begin a session if the password fits; the one that the browser had so far ends."""
    analyst: Analyst | None = check_password(context.queue, name, password, address=address)
    if analyst is None:
        return None
    limits = get_gate(request).limits
    old = session_token(request)
    return start_session(context.queue, analyst, limits, instead_of=old, address=address)


def set_cookie(response: Response, request: Request, begun: NewSession) -> None:
    """Give the browser its session.

    ``SameSite=Lax``, not ``Strict``: a link to a case in a message should open it. Following a
    link changes nothing, and what changes something needs the CSRF token.
    """
    response.set_cookie(
        cookie_name(request),
        begun.token,
        path="/",
        secure=get_gate(request).proxies.is_secure(request),
        httponly=True,
        samesite="lax",
    )


def show_form(
    request: Request, target: str, *, name: str = "", problem: str = "", status_code: int = 200
) -> HTMLResponse:
    """Show the form, perhaps with what was wrong; never with the password."""
    values = {"next": local_path(target), "name": name, "problem": problem}
    return render(request, "sign_in.html", status_code=status_code, **values)
