"""Serves the review desk over HTTP or TLS, from the settings."""

import os
import signal
import socket
import ssl
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from desk.access import take_clear_text
from desk.app import create_app
from desk.context import DeskContext, LabelRules
from desk.settings import DeskSettings
from flows import show
from flows.settings import Settings
from warehouse.analysts import list_analysts
from warehouse.errors import SettingsError, UserError
from warehouse.queue import Queue

WAIT_SECONDS = 10  # for answers under way when the desk is ended
KEEP_ALIVE_SECONDS = 75  # longer than analysts read, and than proxies keep their connections
SWITCH_SECONDS = 0.001  # five times shorter than usual: each request changes threads a few times
BACKLOG = 2048


def serve_desk(settings: Settings, changes: Mapping[str, object], *, insecure: bool) -> bool:
    """Serve the desk until it is told to end; gives whether it could begin.

    Args:
        settings: The settings.
        changes: Host and port, where they differ from the settings'.
        insecure: Whether to serve other machines without TLS.

    Raises:
        UserError: if the port is taken, the TLS files cannot be used, or passwords would go over
            the network in clear.
    """
    desk = resolve_tls_files(settings.desk.model_copy(update=dict(changes)), settings.folder)
    refuse_clear_text(desk, insecure=insecure)
    check_tls_files(desk)
    if not is_every_address(desk.host):
        desk = desk.model_copy(update={"names": (*desk.names, desk.host)})
    with Queue.open(settings.queue_address, create=True) as queue:
        app = build_app(settings, desk, queue, insecure=insecure)
        with listen(desk.host, desk.port) as listener:
            say_where(desk, listener.getsockname()[1])
            say_how_to_begin(queue)
            return run_server(uvicorn.Server(build_config(app, desk)), listener)


def build_app(settings: Settings, desk: DeskSettings, queue: Queue, *, insecure: bool) -> FastAPI:
    """Put the desk together; it takes passwords over a network in clear only if insecure."""
    app = create_app(build_context(settings, desk, queue))
    if insecure:
        take_clear_text(app)
    return app


def build_context(settings: Settings, desk: DeskSettings, queue: Queue) -> DeskContext:
    """Give the desk what it needs, as plain values."""
    label = settings.source.label
    rules = LabelRules(
        time_zone=settings.source.time_zone,
        maturity_days=settings.context().maturity_days,
        delay_days=label.delay_days if label else None,
    )
    return DeskContext(settings=desk, queue=queue, warehouse=settings.warehouse, labels=rules)


def build_config(app: FastAPI, desk: DeskSettings) -> uvicorn.Config:
    """Set the server up: quiet, and the peer's address is the socket's, never a header's."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=WAIT_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ssl_certfile=desk.tls_certificate,
        ssl_keyfile=desk.tls_key,
    )


def run_server(server: uvicorn.Server, listener: socket.socket) -> bool:
    """Serve until Ctrl-C or a signal to end; gives whether the desk could begin."""
    signal.signal(signal.SIGTERM, end_quietly)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return True
    return server.started


def end_quietly(_signal: int, _frame: FrameType | None) -> None:
    """End after the server has, with everything closed."""
    sys.exit(0)


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        UserError: if it is taken, or none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # its connections inherit this; else the end of each page waits for the browser's ACK
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        is_name_wrong = isinstance(error, socket.gaierror)
        reason = error.strerror if is_name_wrong else os.strerror(error.errno or 0)
        raise UserError(
            f"the desk must be able to listen on {host} port {port}, and is not: "
            f"{reason}; end what uses it, or choose another: nightwarden desk --port 0"
        ) from error


def refuse_clear_text(desk: DeskSettings, *, insecure: bool) -> None:
    """Refuse to let passwords travel over a network in clear.

    Raises:
        UserError: if other machines could ask, without TLS here or at a proxy.
    """
    if insecure or is_loopback(desk.host) or desk.tls_certificate or desk.trusted_proxies:
        return
    raise UserError(
        f"passwords must not go over the network in clear, and on {desk.host} they would; set "
        "desk.tls_certificate and desk.tls_key, or desk.trusted_proxies if a proxy speaks TLS, "
        "or listen on 127.0.0.1; --insecure serves all the same"
    )


def resolve_tls_files(desk: DeskSettings, folder: Path) -> DeskSettings:
    """Find certificate and key beside the settings file, unless their paths are absolute."""
    if desk.tls_certificate is None or desk.tls_key is None:
        return desk
    found = {"tls_certificate": desk.tls_certificate, "tls_key": desk.tls_key}
    return desk.model_copy(update={key: str(folder / file) for key, file in found.items()})


def check_tls_files(desk: DeskSettings) -> None:
    """Refuse a certificate or key that cannot be used.

    Raises:
        SettingsError: if one is missing, cannot be read, or does not fit the other.
    """
    if desk.tls_certificate is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(desk.tls_certificate, desk.tls_key, password=no_password)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            "desk.tls_certificate and desk.tls_key must be PEM files that fit each other, without "
            f"a password; {desk.tls_certificate} and {desk.tls_key} do not: {error}"
        ) from error


def no_password() -> str:
    """Answer for a key that asks for a password, so that nothing waits for a terminal."""
    return ""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can ask.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_every_address(host: str) -> bool:
    """Tell whether a host stands for all addresses of this machine."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def say_where(desk: DeskSettings, port: int) -> None:
    """Print the desk's address, and by which names browsers may ask."""
    scheme = "https" if desk.tls_certificate else "http"
    host = desk.names[0] if is_every_address(desk.host) else desk.host
    shown = f"[{host}]" if ":" in host else host
    show.line(f"The review desk is at {scheme}://{shown}:{port}; end it with Ctrl-C.")
    if not is_loopback(desk.host):
        show.line(f"It answers to the names {', '.join(desk.names)}; add others to desk.names.")


def say_how_to_begin(queue: Queue) -> None:
    """Print how to add somebody, while nobody can sign in."""
    if not any(analyst.is_active for analyst in list_analysts(queue)):
        show.line("Nobody can sign in yet. Run: nightwarden desk users add NAME --role admin")
