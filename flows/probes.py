"""What is asked of ports and servers: whether they are free, answer, have work scheduled."""

import base64
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from warehouse.errors import UserError

ANSWER_SECONDS = 5.0


def claim(host: str, port: int, option: str) -> int:
    """Find out whether a port can be listened on; gives its number, also of any free one.

    Args:
        host: Address of this machine.
        port: The port; 0: any free one.
        option: The command's option that chooses another.

    Raises:
        UserError: if it cannot.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        message = (
            f"port {port} of {host} must be free, and is not ({error.strerror}); end what uses "
            f"it, or choose another with {option} (0: any free one)"
        )
        raise UserError(message) from error


def answers(address: str) -> bool:
    """Tell whether a server of this machine says that all is well.

    Its certificate names the host by which others know it, so it is not checked.
    """
    try:
        with httpx.Client(verify=False, timeout=ANSWER_SECONDS) as client:  # noqa: S501 (nothing secret is sent, nothing that comes back is used)
            return client.get(address).is_success
    except httpx.HTTPError:
        return False


class PrefectApi:
    """The few questions that are asked of a Prefect server, without loading Prefect."""

    def __init__(self, address: str) -> None:
        """Name the server, as ``PREFECT_API_URL`` does."""
        self._client = httpx.Client(
            base_url=address, headers=prefect_headers(), timeout=ANSWER_SECONDS
        )

    def is_healthy(self) -> bool:
        """Tell whether the server answers."""
        return self._ask("GET", "/health") is True

    def is_pool_ready(self, pool: str) -> bool:
        """Tell whether a worker of a pool is online."""
        found = self._ask("GET", f"/work_pools/{pool}")
        return isinstance(found, dict) and found.get("status") == "READY"

    def next_run(self, name: str) -> datetime | None:
        """Give when the next run of the deployment of a flow is scheduled that has its name."""
        wanted = {
            "flows": {"name": {"any_": [name]}},
            "deployments": {"name": {"any_": [name]}},
            "flow_runs": {
                "state": {"type": {"any_": ["SCHEDULED"]}},
                "expected_start_time": {"after_": datetime.now(UTC).isoformat()},
            },
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": 1,
        }
        found = self._ask("POST", "/flow_runs/filter", wanted)
        return datetime.fromisoformat(found[0]["expected_start_time"]) if found else None

    def _ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 (any JSON value)
        """Give the answer; None where there is none."""
        try:
            answer = self._client.request(method, path, json=body)
            return answer.json() if answer.is_success else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return None


def prefect_headers() -> dict[str, str]:
    """Say who asks, as Prefect's own client would from the environment."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def is_of_this_machine(address: str) -> bool:
    """Tell whether an address names this machine by its loopback; no name is looked up.

    Example:
        >>> is_of_this_machine("http://127.0.0.1:4200/api")
        True
        >>> is_of_this_machine("https://prefect.example/api")
        False
    """
    host = urlsplit(address).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def without_user(address: str) -> str:
    """Give an address without the user and password that it may hold.

    Example:
        >>> without_user("https://ada:secret@prefect.example/api")
        'https://prefect.example/api'
    """
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
