"""Make the deployments, and what they need, on a Prefect server; doing so again changes nothing."""

import importlib
from dataclasses import dataclass, field
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from flows.automations import apply_automations, find_notifier
from flows.deployments import (
    DEPLOYMENTS,
    GRACE_SECONDS,
    JOB_ENVIRONMENT,
    TAG,
    Deployment,
    pool_slots,
)
from flows.probes import without_user
from warehouse.errors import SettingsError, UserError

SECRETS = tuple(dict.fromkeys(name for one in DEPLOYMENTS for name in one.secrets))
"""Variables that a run may get from a Secret block of the server."""


@dataclass(frozen=True)
class Wishes:
    """How to deploy: when each deployment runs, where its settings are, who is notified.

    A deployment that exists and is not in ``chosen`` keeps its schedule, in another time zone where
    one was asked for. ``worker_config`` is a path on the workers; None leaves what is there, and an
    empty text leaves it to each worker.
    """

    crons: dict[str, str | None]
    time_zone: str
    chosen: frozenset[str] = frozenset()
    is_zone_chosen: bool = False
    worker_config: str | None = None
    notify: str | None = None

    def schedule(self, name: str) -> CronSchedule | None:
        """Give a deployment's schedule, if it has one.

        Raises:
            SettingsError: if the server's cron does not read it, or does not know the time zone.
        """
        cron = self.crons[name]
        if cron is None:
            return None
        try:
            return CronSchedule(cron=cron, timezone=self.time_zone)
        except ValueError as error:
            message = (
                f"the schedule of {name} needs five fields of cron such as '30 3 * * *' and a time "
                f"zone such as 'Europe/Berlin'; got {cron!r} and {self.time_zone!r}"
            )
            raise SettingsError(message) from error


@dataclass
class Deployed:
    """What was done to what, in words."""

    server: str
    done: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)


def deploy(wishes: Wishes) -> Deployed:
    """Make or update pools, queues, deployments, schedules and automations.

    Raises:
        SettingsError: if no server is named, or a wish cannot be fulfilled.
        UserError: if the server does not answer, or does not let us in.
    """
    schedules = {one.name: wishes.schedule(one.name) for one in DEPLOYMENTS}
    address = PREFECT_API_URL.value()
    if not address:
        message = (
            "deploying needs a Prefect server, and none is named; set PREFECT_API_URL, such as "
            "http://127.0.0.1:4200/api, or run nightwarden up"
        )
        raise SettingsError(message)
    server = without_user(address)
    try:
        with get_client(sync_client=True) as client:
            return _Deployer(client, wishes, schedules, Deployed(server)).run()
    except httpx.TransportError as error:
        message = (
            f"the Prefect server {server} must answer, and does not ({type(error).__name__}); "
            "start it, or correct PREFECT_API_URL"
        )
        raise UserError(message) from error
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        message = (
            f"the Prefect server {server} does not let you in; set PREFECT_API_AUTH_STRING or "
            "PREFECT_API_KEY"
        )
        raise UserError(message) from None


class _Deployer:
    """One pass over the server."""

    def __init__(
        self,
        client: SyncPrefectClient,
        wishes: Wishes,
        schedules: dict[str, CronSchedule | None],
        report: Deployed,
    ) -> None:
        self._client, self._wishes, self._schedules = client, wishes, schedules
        self._report = report

    def run(self) -> Deployed:
        client, report, notify = self._client, self._report, self._wishes.notify
        notifier = find_notifier(client, notify) if notify else None
        for pool, slots in pool_slots().items():
            report.done[f"pool {pool}"] = self._make_pool(pool, slots)
        report.secrets = [name for name in SECRETS if self._has_block(block_name(name))]
        for one in DEPLOYMENTS:
            self._make_queue(one)
            report.done[f"deployment {one.name}"] = self._make_deployment(one)
        for name, done in apply_automations(client, notifier).items():
            report.done[f"automation {name}"] = done
        return report

    def _make_pool(self, name: str, slots: int) -> str:
        """Make a pool, or see that it has enough slots; one that exists keeps its type."""
        try:
            pool = self._client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            wanted = WorkPoolCreate(
                name=name, type="process", base_job_template=template, concurrency_limit=slots
            )
            self._client.create_work_pool(wanted)
            return f"made, slots: {slots}"
        if pool.concurrency_limit is not None and pool.concurrency_limit < slots:
            self._client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=slots))
            return f"slots: {slots} now, so that a night waits for no other run"
        return f"there already, type {pool.type}"

    def _make_queue(self, one: Deployment) -> None:
        try:
            queue = self._client.read_work_queue_by_name(one.name, work_pool_name=one.pool)
        except ObjectNotFound:
            self._client.create_work_queue(
                one.name, priority=one.priority, work_pool_name=one.pool
            )
            return
        if queue.priority != one.priority:
            self._client.update_work_queue(queue.id, priority=one.priority)

    def _has_block(self, name: str) -> bool:
        try:
            self._client.read_block_document_by_name(name, "secret", include_secrets=False)
        except ObjectNotFound:
            return False
        return True

    def _make_deployment(self, one: Deployment) -> str:
        flow = _load_flow(one.entrypoint)
        given = self._settings_of(one, flow)
        schedule = self._schedules[one.name]
        try:
            found = self._client.read_deployment_by_name(f"{flow.name}/{one.name}")
        except ObjectNotFound:
            first = [DeploymentScheduleCreate(schedule=schedule)] if schedule else []
            flow_id = self._client.create_flow_from_name(flow.name)
            self._client.create_deployment(
                flow_id, one.name, schedules=first, enforce_parameter_schema=True, **given
            )
            return f"made, {_describe(schedule)}"
        if self._wishes.worker_config is None:
            del given["parameters"]
        self._client.update_deployment(found.id, DeploymentUpdate(**given))
        paused = ", paused" if found.paused else ""
        if one.name not in self._wishes.chosen:
            schedule = self._kept_schedule(found)
        self._set_schedule(found, schedule)
        return f"updated, {_describe(schedule)}{self._warn_of_zone(schedule)}{paused}"

    def _kept_schedule(self, found: Any) -> Any:  # noqa: ANN401 (Prefect's answer, any schedule)
        """Give the schedule that is there, in the time zone that was asked for."""
        if not found.schedules:
            return None
        kept = found.schedules[0].schedule
        zone = {"timezone": self._wishes.time_zone} if self._wishes.is_zone_chosen else {}
        return kept.model_copy(update=zone)

    def _warn_of_zone(self, schedule: Any) -> str:  # noqa: ANN401 (any schedule)
        """Say so where a schedule is not in the source's time zone, and nobody asked for that."""
        zone = self._wishes.time_zone
        if schedule is None or self._wishes.is_zone_chosen or _zone_of(schedule) == zone:
            return ""
        return f", as before; the source's time zone is {zone}, see --time-zone"

    def _settings_of(self, one: Deployment, flow: Any) -> dict[str, Any]:  # noqa: ANN401 (any flow)
        opened = {
            name: f"{{{{ prefect.blocks.secret.{block_name(name)} }}}}"
            for name in self._report.secrets
            if name in one.secrets
        }
        config = self._wishes.worker_config
        return {
            "description": one.description,
            "tags": [TAG],
            "entrypoint": one.entrypoint,
            "pull_steps": [],
            "work_pool_name": one.pool,
            "work_queue_name": one.name,
            "job_variables": {"env": {**JOB_ENVIRONMENT, **opened}},
            "concurrency_limit": 1,
            "concurrency_options": ConcurrencyOptions(
                collision_strategy=ConcurrencyLimitStrategy.ENQUEUE,
                grace_period_seconds=GRACE_SECONDS,
            ),
            "parameters": {"config": config or None},
            "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
        }

    def _set_schedule(self, found: Any, wanted: Any) -> None:  # noqa: ANN401 (Prefect's answer, any schedule)
        """Leave one schedule, or none; one that somebody switched off stays so."""
        kept, *twins = found.schedules or [None]
        for twin in twins:
            self._client.delete_deployment_schedule(found.id, twin.id)
        if wanted is None and kept:
            self._client.delete_deployment_schedule(found.id, kept.id)
        elif wanted and not kept:
            self._client.create_deployment_schedules(
                found.id, [DeploymentScheduleCreate(schedule=wanted)]
            )
        elif wanted and kept.schedule != wanted:
            self._client.update_deployment_schedule(found.id, kept.id, schedule=wanted)


def block_name(variable: str) -> str:
    """Give the name of the Secret block that may hold a variable.

    Example:
        >>> block_name("NIGHTWARDEN_SOURCE_DSN")
        'nightwarden-source-dsn'
    """
    return variable.lower().replace("_", "-")


def _describe(schedule: Any) -> str:  # noqa: ANN401 (any schedule)
    if schedule is None:
        return "no schedule"
    when = schedule.cron if isinstance(schedule, CronSchedule) else "a schedule other than cron's"
    return f"{when} ({_zone_of(schedule)})"


def _zone_of(schedule: Any) -> str:  # noqa: ANN401 (any schedule)
    """Give a schedule's time zone; without one, Prefect takes UTC."""
    return schedule.timezone or "UTC"


def _load_flow(entrypoint: str) -> Any:  # noqa: ANN401 (any flow)
    module, _, name = entrypoint.rpartition(".")
    return getattr(importlib.import_module(module), name)
