"""Who may do what: ``require`` and ``require_scope`` guard every page and endpoint.

A browser is known by its session's cookie, or by the name that a trusted proxy states; a program by
its token. A browser that changes something must also show its CSRF token.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated
from urllib.parse import quote, urlsplit

from anyio import CapacityLimiter
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from desk.arrivals import Arrivals
from desk.attempts import Attempts
from desk.context import DeskContext, get_context
from desk.peers import Proxies
from desk.settings import DeskSettings
from warehouse.analysts import find_analyst, is_at_least
from warehouse.api_tokens import PREFIX, find_holder
from warehouse.queue import Queue
from warehouse.queue_audit import name_token
from warehouse.sessions import SessionLimits, find_session, is_due, note_use, read_csrf_key

COOKIE = "nightwarden"
SECURE_COOKIE = "__Host-nightwarden"  # the prefix makes browsers refuse it from other hosts
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")  # printable ASCII without a backslash
LONGEST_PATH = 2000
HASHES_AT_ONCE = 2  # each takes 64 MiB


@dataclass(frozen=True)
class Person:
    """Who asks; of a program also what its token may do, and the token's name: else None."""

    analyst_id: int
    name: str
    role: str
    csrf_token: str
    scopes: frozenset[str] | None = None
    token: str | None = None

    def may(self, role: str) -> bool:
        """Tell whether they may do what a role may."""
        return is_at_least(self.role, role)


class Keys:
    """Makes the CSRF tokens of people whom a proxy signs in, who have no session.

    Its key is the queue's, read once, so that every desk over it takes them, now and later.
    """

    def __init__(self) -> None:
        """Read nothing yet."""
        self._key: bytes | None = None

    def sign(self, queue: Queue, name: str) -> str:
        """Give the CSRF token of somebody."""
        self._key = self._key or read_csrf_key(queue)
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Gate:
    """What an application needs to know who asks, for as long as it runs.

    ``takes_clear_text`` lets passwords come over a network without TLS.
    """

    limits: SessionLimits
    proxies: Proxies
    trusted_header: str | None
    takes_clear_text: bool = False
    arrivals: Arrivals = field(default_factory=Arrivals)
    attempts: Attempts = field(default_factory=Attempts)
    hashing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(HASHES_AT_ONCE))
    keys: Keys = field(default_factory=Keys)

    @classmethod
    def build(cls, settings: DeskSettings) -> "Gate":
        """Make the gate of an application.

        Raises:
            SettingsError: if an address of a proxy cannot be read.
        """
        idle = timedelta(minutes=settings.idle_minutes)
        limits = SessionLimits(idle, timedelta(hours=settings.session_hours))
        return cls(limits, Proxies.read(settings.trusted_proxies), settings.trusted_header)


def get_gate(request: Request) -> Gate:
    """Give the gate of the application that answers."""
    gate: Gate = request.app.state.gate
    return gate


def take_clear_text(app: FastAPI) -> None:
    """Let passwords come to an application over a network without TLS, as somebody insists."""
    app.state.gate = replace(app.state.gate, takes_clear_text=True)


@dataclass(frozen=True)
class Guard:
    """A dependency that gives the person who asks, or refuses.

    With a scope, a program may ask by its token, too; without one, a browser alone.
    """

    needed_role: str
    needed_scope: str | None = None

    async def __call__(self, request: Request, background: BackgroundTasks) -> Person:
        """Give who asks.

        Raises:
            HTTPException: 303 or 401 if nobody is signed in; 403 if they may not, or if the
                CSRF token is missing or wrong.
        """
        person = await identify(request, background, takes_tokens=self.needed_scope is not None)
        if person is None:
            raise nobody_asks(request, takes_tokens=self.needed_scope is not None)
        request.state.person = person
        name_token(person.token)
        if person.scopes is not None and self.needed_scope not in person.scopes:
            raise HTTPException(
                403, f"This needs a token with scope {self.needed_scope}; this one has none."
            )
        if not person.may(self.needed_role):
            raise HTTPException(
                403, f"This needs the role {self.needed_role}; yours is {person.role}."
            )
        if person.scopes is None and request.method not in SAFE_METHODS:
            await check_csrf_token(request, person)
        return person


def require(role: str) -> Guard:
    """Give the guard of a page: a signed-in browser with at least the role."""
    return Guard(role)


def require_scope(scope: str, role: str) -> Guard:
    """Give the guard of an endpoint: a token with the scope, or a browser, of at least the role."""
    return Guard(role, scope)


Viewer = Annotated[Person, Depends(require("viewer"))]
Analyst_ = Annotated[Person, Depends(require("analyst"))]
Lead = Annotated[Person, Depends(require("lead"))]


async def identify(
    request: Request, background: BackgroundTasks, *, takes_tokens: bool
) -> Person | None:
    """Give who asks, from one read of the queue for each request; None if it is nobody."""
    known: Person | None = getattr(request.state, "person", None)
    if known is not None and (known.scopes is None or takes_tokens):
        return known
    context, gate = await get_context(request), get_gate(request)
    header = request.headers.get("authorization")
    if takes_tokens and header is not None:
        return await run_in_threadpool(holder_of, context, header)
    if gate.trusted_header and gate.proxies.is_from_proxy(request):
        names = request.headers.getlist(gate.trusted_header)
        if names:
            address = gate.proxies.client_address(request)
            return await run_in_threadpool(named_by_proxy, context, gate, names, address)
    token = session_token(request)
    if token is None:
        return None
    return await run_in_threadpool(owner_of, context, gate, token, background)


def holder_of(context: DeskContext, header: str) -> Person | None:
    """Give for whom a program asks, by its ``Authorization``."""
    kind, _, token = header.strip().partition(" ")
    if kind.lower() != "bearer" or not token.startswith(PREFIX):
        return None
    holder = find_holder(context.queue, token.strip())
    if holder is None:
        return None
    return Person(holder.analyst_id, holder.name, holder.role, "", holder.scopes, holder.token)


def named_by_proxy(context: DeskContext, gate: Gate, names: list[str], address: str) -> Person:
    """Give whom a trusted proxy names; that they came is noted once for as long as they stay.

    Raises:
        HTTPException: 403 if it names several, or nobody whom the desk lets in.
    """
    if len(names) != 1:
        raise HTTPException(
            403, f"The proxy must set {gate.trusted_header} once; it came {len(names)} times."
        )
    name = names[0].strip()
    analyst = find_analyst(context.queue, name)
    if analyst is None or not analyst.is_active:
        reason = "no such name" if analyst is None else "disabled"
        gate.arrivals.note_refusal(context.queue, name, reason, address, gate.limits)
        raise HTTPException(
            403,
            f"The proxy says that you are {name!r}, whom the desk does not let in. Ask for: "
            f"nightwarden desk users add {name} --no-password",
        )
    gate.arrivals.note(context.queue, analyst.name, address, gate.limits)
    token = gate.keys.sign(context.queue, analyst.name)
    return Person(analyst.id, analyst.name, analyst.role, token)


def owner_of(
    context: DeskContext, gate: Gate, token: str, background: BackgroundTasks
) -> Person | None:
    """Give whose session a token is; its use is noted after the answer, as it may have to wait."""
    session = find_session(context.queue, token, gate.limits)
    if session is None:
        return None
    if is_due(session, context.queue.clock(), gate.limits):
        background.add_task(note_use, context.queue, token)
    return Person(session.analyst_id, session.name, session.role, session.csrf_token)


def session_token(request: Request) -> str | None:
    """Give the token of the browser's session, which may have ended."""
    return request.cookies.get(cookie_name(request))


def cookie_name(request: Request) -> str:
    """Give the name of the session's cookie: behind TLS one that no other host can set."""
    return SECURE_COOKIE if get_gate(request).proxies.is_secure(request) else COOKIE


async def check_csrf_token(request: Request, person: Person) -> None:
    """Refuse a change that another site's page may have sent.

    Raises:
        HTTPException: 403 if neither header nor form has the session's CSRF token.
    """
    given: object = request.headers.get("x-csrf-token")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given is None and kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        given = (await request.form()).get("csrf_token")
    known = person.csrf_token.encode()
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), known):
        raise HTTPException(
            403, "The page was too old for this. Nothing was changed; load it again, and repeat."
        )


def nobody_asks(request: Request, *, takes_tokens: bool) -> HTTPException:
    """Say that nobody is signed in, in the way that page, fragment or program understands."""
    if "hx-request" in request.headers:
        came_from = request.headers.get("hx-current-url", "")
        headers = {"HX-Redirect": sign_in_address(to_local_path(came_from))}
        return HTTPException(401, "Your session has ended; sign in again.", headers)
    if wants_page(request) and not takes_tokens:
        is_safe = request.method in SAFE_METHODS
        address = str(request.url) if is_safe else request.headers.get("referer", "")
        location = sign_in_address(to_local_path(address))
        return HTTPException(303, "Sign in first.", {"Location": location})
    headers = {"WWW-Authenticate": "Bearer"} if takes_tokens else {}
    return HTTPException(401, "Sign in first, or send a token that holds.", headers)


def wants_page(request: Request) -> bool:
    """Tell whether a browser asks for a page."""
    return "text/html" in request.headers.get("accept", "")


def sign_in_address(path: str) -> str:
    """Give the address of the page to sign in that leads to a path afterwards.

    Example:
        >>> sign_in_address("/queue?lane=audit")
        '/sign-in?next=/queue%3Flane%3Daudit'
    """
    return "/sign-in" if path == "/" else f"/sign-in?next={quote(path)}"


def to_local_path(address: str) -> str:
    """Give the path and query of one of our own addresses; ``/`` if there is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    return local_path(parts.path + (f"?{parts.query}" if parts.query else ""))


def local_path(text: str) -> str:
    r"""Give a path that stays on this site, or ``/`` instead of any other address.

    Example:
        >>> [local_path(text) for text in ("/cases/7?a=b", "//evil.example", "/\\evil", "https:x")]
        ['/cases/7?a=b', '/', '/', '/']
    """
    is_local = len(text) <= LONGEST_PATH and LOCAL_PATH.fullmatch(text) is not None
    leads_here = text.partition("?")[0] in ("/sign-in", "/sign-out")
    return text if is_local and not leads_here else "/"
