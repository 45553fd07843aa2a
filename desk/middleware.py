"""What every request passes before it meets a route, and every answer on its way out."""

import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from desk.access import SAFE_METHODS, Gate
from desk.errors import answer, answer_unexpected
from desk.peers import Proxies
from desk.settings import DeskSettings

logger = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "font-src 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ONLY_TLS = "max-age=31536000"


def add_middleware(app: FastAPI, settings: DeskSettings) -> None:
    """Let every request of an application pass the checks, the headers outermost.

    Raises:
        SettingsError: if an address of a proxy cannot be read.
    """
    gate = Gate.build(settings)
    app.state.gate = gate
    app.add_middleware(BodyLimit)
    app.add_middleware(OwnOrigin)
    app.add_middleware(OwnNames, names=settings.names)
    app.add_middleware(NoTracebacks)
    app.add_middleware(SafeHeaders, proxies=gate.proxies)


class SafeHeaders:
    """Gives every answer the headers that keep browsers careful."""

    def __init__(self, app: ASGIApp, *, proxies: Proxies) -> None:
        """Wrap an application."""
        self.app = app
        self.proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_secure = self.proxies.is_secure(Request(scope))
        keeping = may_keep(scope)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["Cache-Control"] = keeping
                if is_secure:
                    headers["Strict-Transport-Security"] = ONLY_TLS
            await send(message)

        await self.app(scope, receive, send_safely)


class NoTracebacks:
    """Answers an error that nobody expected in words; its traceback goes to the log alone."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whatever happens; an answer that has begun is cut off."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def send_watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_watched)
        except Exception:
            if has_begun:
                raise  # the server logs it and closes the connection
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await answer_unexpected(Request(scope))(scope, receive, send)


class OwnNames:
    """Refuses requests for other host names: a foreign name may lead a browser here."""

    def __init__(self, app: ASGIApp, *, names: Sequence[str]) -> None:
        """Wrap an application that has these names, whatever its port."""
        self.app = app
        self.names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 400."""
        if scope["type"] == "http" and not self.is_own(Request(scope)):
            detail = "The desk does not have this host name; it can be added to desk.names."
            await answer(Request(scope), 400, detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def is_own(self, request: Request) -> bool:
        """Tell whether a request names one host, one of ours."""
        hosts = request.headers.getlist("host")
        return len(hosts) == 1 and host_name(hosts[0]) in self.names


class OwnOrigin:
    """Refuses changes that another site's page asks for, the sign-in too.

    Browsers say whence a request comes, programs do not; those have no cookies to abuse.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] == "http" and not is_own_origin(Request(scope)):
            detail = "Another site's page asked for this. Nothing was changed."
            await answer(Request(scope), 403, detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses bodies of more than 256 KiB, whether they say their size or not."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = Request(scope).headers.get("content-length", "")
        detail = f"More than {MOST_BYTES // 1024} KiB were sent."
        if told.isdecimal() and int(told) > MOST_BYTES:
            await answer(Request(scope), 413, detail)(scope, receive, send)
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MOST_BYTES:
                raise HTTPException(413, detail)
            return message

        await self.app(scope, receive_limited, send)


def may_keep(scope: Scope) -> str:
    """Tell browsers what they may keep: static files alone, and for good if named by content."""
    if not scope["path"].startswith("/static/"):
        return "no-store"
    is_named_by_content = scope["query_string"].startswith(b"v=")
    return "public, max-age=31536000, immutable" if is_named_by_content else "no-cache"


def is_own_origin(request: Request) -> bool:
    """Tell whether a request changes nothing, or comes from our own page or from no page."""
    if request.method in SAFE_METHODS:
        return True
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        return True
    try:
        host = urlsplit(origin).netloc
    except ValueError:  # such as "http://["
        return False
    # behind a proxy that speaks TLS our own scheme is another one, so hosts are compared
    return host.lower() == request.headers.get("host", "").lower()


def host_name(host: str) -> str:
    """Give a host without its port.

    Example:
        >>> host_name("Desk.example:8050"), host_name("[::1]:8050")
        ('desk.example', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()
