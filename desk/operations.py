"""For those who run the desk: whether it lives, whether the queue answers, and its figures."""

import asyncio
import logging
import time
from collections.abc import Iterator

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from desk.access import require_scope
from desk.context import DeskContext
from warehouse.queue_gauges import QueueGauges, answer, read_gauges
from warehouse.webhook_deliveries import WebhookProgress, list_webhooks

READY_SECONDS = 2.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# The queue page shall take 0.15 s and a case page 0.2 s at most.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0)
LOG = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def tell_alive() -> dict[str, str]:
    """Say that the process lives; neither the queue nor a thread is asked."""
    return {"status": "ok"}


@router.get("/readyz")
async def tell_ready(request: Request) -> JSONResponse:
    """Say whether the queue answers in time; strangers learn nothing of where it is."""
    try:
        await asyncio.wait_for(asyncio.shield(_asked_queue(request.app)), READY_SECONDS)
    except TimeoutError:
        return JSONResponse({"status": "the queue does not answer in time"}, status_code=503)
    except Exception:
        LOG.warning("The queue cannot be read.", exc_info=True)
        return JSONResponse({"status": "the queue cannot be read"}, status_code=503)
    return JSONResponse({"status": "ok"})


def _asked_queue(app: FastAPI) -> "asyncio.Future[None]":
    """Give the one question that is under way: a queue that hangs holds one thread, not many."""
    asked: asyncio.Future[None] | None = getattr(app.state, "asked_queue", None)
    if asked is None or asked.done():
        asked = asyncio.ensure_future(asyncio.to_thread(answer, app.state.context.queue))
        app.state.asked_queue = asked
    return asked


@router.get("/metrics", dependencies=[Depends(require_scope("metrics", "viewer"))])
def write_metrics(request: Request) -> Response:
    """Write the figures of the queue and of the requests as Prometheus reads them."""
    text = generate_latest(request.app.state.registry)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def add_request_metrics(app: FastAPI) -> None:
    """Count and time the application's requests, and collect the queue's figures for /metrics."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(app.state.context))
    app.state.registry = registry
    app.add_middleware(RequestMetrics, registry=registry)


class QueueCollector(Collector):
    """Reads the queue's figures whenever they are asked for."""

    def __init__(self, context: DeskContext) -> None:
        """Take the queue to read, and the webhooks of the settings."""
        self._queue = context.queue
        self._webhooks = [webhook.name for webhook in context.settings.webhooks]

    def describe(self) -> list[Metric]:
        """Name nothing in advance, so that the queue is not read at the start."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the queue and the progress of its webhooks; one that was set earlier has none."""
        gauges = read_gauges(self._queue)
        yield from to_metrics(gauges)
        if gauges.oldest_open:
            age = (self._queue.clock() - gauges.oldest_open).total_seconds()
            yield GaugeMetricFamily(
                "nightwarden_oldest_open_case_seconds",
                "Age of the oldest open case that is not snoozed.",
                value=age,
            )
        yield from to_webhook_metrics(list_webhooks(self._queue, self._webhooks))


def to_metrics(gauges: QueueGauges) -> Iterator[Metric]:
    """Name the queue's figures."""
    by_label = (
        ("cases_open", "Open cases that are not snoozed.", "lane", gauges.open_cases),
        ("cases_snoozed", "Cases that are snoozed.", "lane", gauges.snoozed_cases),
        ("alerts", "Alerts, decided or not.", "lane", gauges.alerts),
        ("decisions", "Decisions that stand.", "verdict", gauges.decisions),
    )
    for name, text, label, values in by_label:
        yield _gauge_by(name, text, label, values)
    yield GaugeMetricFamily(
        "nightwarden_cases_awaiting_second",
        "Open cases in which a verdict waits for a second analyst.",
        value=gauges.awaiting_second,
    )


def to_webhook_metrics(webhooks: list[WebhookProgress]) -> Iterator[Metric]:
    """Name how far the webhooks are."""
    lag = {webhook.webhook: webhook.lag for webhook in webhooks}
    failures = {webhook.webhook: webhook.attempts for webhook in webhooks}
    yield _gauge_by("webhook_lag_changes", "Changes that wait to be told.", "webhook", lag)
    yield _gauge_by("webhook_failures", "Failed attempts in a row.", "webhook", failures)


def _gauge_by(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"nightwarden_{name}", text, labels=[label])
    for value, number in sorted(values.items()):
        family.add_metric([value], number)
    return family


class RequestMetrics:
    """Counts and times requests by the route's template, never by the path that was asked for."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        """Go around an application, with counters of its own in the registry."""
        self._app = app
        self._requests = Counter(
            "nightwarden_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "nightwarden_http_request_seconds",
            "How long requests took.",
            ["method", "route"],
            buckets=SECONDS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and note its status, 500 if it failed without one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "500"

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        begin = time.perf_counter()
        try:
            await self._app(scope, receive, note_status)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = find_template(scope)
            self._requests.labels(method, route, status).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - begin)


def find_template(scope: Scope) -> str:
    """Give the template of the route that answered; ``other`` where none did."""
    return str(getattr(scope.get("route"), "path", "other"))
