"""Automations on the server: what it does, and tells, when a run goes wrong while nobody looks."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.deployments import NIGHT_TAG, TAG
from warehouse.errors import SettingsError

RUN = "prefect.flow-run"
ENDED = {f"{RUN}.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
SILENT = timedelta(seconds=540)
"""Three heartbeats of 180 s that did not come: whoever ran the flow is gone."""
LATE = timedelta(minutes=30)
OURS: dict[str, Any] = {
    "match": {"prefect.resource.id": f"{RUN}.*"},
    "match_related": {
        "prefect.resource.role": "tag",
        "prefect.resource.id": f"prefect.tag.{TAG}",
    },
    "for_each": {"prefect.resource.id"},
}
"""Runs of our deployments, each by itself; they carry a tag."""
NIGHTS: dict[str, Any] = OURS | {
    "match_related": {
        "prefect.resource.role": "tag",
        "prefect.resource.id": [f"prefect.tag.{TAG}", f"prefect.tag.{NIGHT_TAG}"],
    }
}
"""The nights within a run that catches up, too: they end with it, and their failure is its own."""


class Watch(NamedTuple):
    """What is waited for, what a notification then says, and what is done in any case."""

    name: str
    subject: str
    trigger: EventTrigger
    always: Sequence[ActionTypes] = ()


def list_watches() -> list[Watch]:
    """List what the server watches."""
    heartbeat = f"{RUN}.heartbeat"
    silent = EventTrigger(
        after={heartbeat},
        expect={heartbeat, *ENDED},
        posture=Posture.Proactive,
        within=SILENT,
        **NIGHTS,
    )
    late = EventTrigger(
        after={f"{RUN}.Late"},
        expect={f"{RUN}.Pending", f"{RUN}.Running", *ENDED},
        posture=Posture.Proactive,
        within=LATE,
        **OURS,
    )
    failed = EventTrigger(
        expect={f"{RUN}.{state}" for state in ("Failed", "Crashed", "TimedOut")},
        posture=Posture.Reactive,  # an update leaves out what is not set
        **OURS,
    )
    told = EventTrigger(
        expect={"nightwarden.*"},
        match={"prefect.resource.id": "nightwarden.*"},
        posture=Posture.Reactive,
        for_each={"prefect.resource.id"},
    )
    crashed = ChangeFlowRunState(
        state=StateType.CRASHED, message="No heartbeat for nine minutes: its worker is gone."
    )
    return [
        Watch("nightwarden: a run whose worker is gone", "has crashed", silent, [crashed]),
        Watch("nightwarden: a run that is late", "is late by half an hour", late),
        Watch("nightwarden: a run that failed", "failed", failed),
        Watch("nightwarden: something to look at", "needs a look", told),
    ]


def find_notifier(client: SyncPrefectClient, block: str) -> SendNotification:
    """Give the action that sends a notification through a block such as ``slack-webhook/ops``.

    Raises:
        SettingsError: if the server has no such block.
    """
    kind, _, name = block.partition("/")
    try:
        found = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound as error:
        message = (
            f"--notify must name a notification block of the server as TYPE/NAME, such as "
            f"slack-webhook/ops; got {block!r}, which it has not; see prefect block ls"
        )
        raise SettingsError(message) from error
    body = "{{ event.event }}: {{ event.resource.name }} ({{ event.resource.id }})"
    return SendNotification(block_document_id=found.id, subject="Nightwarden", body=body)


def apply_automations(
    client: SyncPrefectClient, notify: SendNotification | None
) -> dict[str, str]:
    """Make or update the automations; give what was done to each.

    Without ``notify``, those that exist keep their actions; a new one just shows on the server's
    pages that it was triggered. One that somebody paused stays so.
    """
    done = {}
    for watch in list_watches():
        told = (
            [notify.model_copy(update={"subject": f"Nightwarden: {watch.subject}"})]
            if notify
            else []
        )
        wanted = AutomationCore(
            name=watch.name,
            description="Made by nightwarden deploy",
            trigger=watch.trigger,
            actions=[*watch.always, *told] or [DoNothing()],
        )
        done[watch.name] = _apply(client, wanted, keeps_actions=notify is None)
    return done


def _apply(client: SyncPrefectClient, wanted: AutomationCore, *, keeps_actions: bool) -> str:
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return "made"
    kept: dict[str, Any] = {"enabled": found[0].enabled}
    if keeps_actions:
        kept |= {"actions": found[0].actions}
    client.update_automation(found[0].id, wanted.model_copy(update=kept))
    for twin in found[1:]:
        client.delete_automation(twin.id)
    return "updated"
