"""Fit an ensemble's members: each on a device of its own, side by side or one by one, and counted."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import cast
from uuid import UUID

import torch
from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import as_completed
from prefect.utilities.annotations import quote

from models.ensemble_fit import FailedMember, FitEach, FittedMember, MemberFit
from warehouse.errors import safe_text

PROGRESS = "training"
"""Key of the artifact in Prefect's pages that shows how far a training is."""

logger = logging.getLogger(__name__)


class DevicePool:
    """Devices, each lent to one member at a time; who finds none free waits."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        """Take the devices; one that is named twice is lent twice at a time."""
        self._free: SimpleQueue[torch.device] = SimpleQueue()
        for device in devices:
            self._free.put(device)

    @contextmanager
    def lent(self) -> Iterator[torch.device]:
        """Lend a device for a block."""
        device = self._free.get()
        try:
            yield device
        finally:
            self._free.put(device)


def devices_like(device: str, workers: int) -> list[torch.device]:
    """Give the devices that members may use: every GPU once, a processor once for each worker."""
    if device == "cuda":
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return [torch.device(device)] * workers


def fit_each_on(devices: Sequence[torch.device], workers: int) -> FitEach:
    """Give what fits members: side by side as Prefect tasks with several workers, else one by one.

    A member's device has no influence on another's weights.
    """
    pool = DevicePool(devices)

    def fit_each(fit: MemberFit, names: Sequence[str]) -> list[FittedMember | FailedMember]:
        on_free = partial(_fit_on_free, fit, pool)
        members = _side_by_side(on_free, names) if workers > 1 else map(on_free, names)
        return sorted(_counted(members, len(names)), key=lambda one: names.index(one.name))

    return fit_each


def _fit_on_free(fit: MemberFit, pool: DevicePool, name: str) -> FittedMember | FailedMember:
    with pool.lent() as device:
        return fit(name, _log_epoch, device)


OnFree = Callable[[str], FittedMember | FailedMember]


@task(name="fit-member", task_run_name="fit-{name}", cache_policy=NO_CACHE)
def fit_member(name: str, fit: OnFree) -> FittedMember | FailedMember:
    """Fit one member of an ensemble; what it learns from is not Prefect's to look into."""
    return fit(name)


def _side_by_side(fit: OnFree, names: Sequence[str]) -> Iterator[FittedMember | FailedMember]:
    unread = cast("OnFree", quote(fit))  # Prefect unwraps it, and looks into nothing
    futures = [fit_member.submit(name, unread) for name in names]
    for future in as_completed(futures):
        yield future.result()


def _counted(
    members: Iterable[FittedMember | FailedMember], total: int
) -> Iterator[FittedMember | FailedMember]:
    """Show in Prefect's pages how many members are fitted, where a run is there to show it in."""
    if TaskRunContext.get() is None and FlowRunContext.get() is None:
        yield from members
        return
    shown = _show(None, 0.0, f"0 of {total} members fitted")
    for count, member in enumerate(members, start=1):
        text = f"{count} of {total} members fitted, the last one {member.name}"
        shown = _show(shown, 100.0 * count / total, text)
        yield member


def _show(shown: UUID | None, percent: float, text: str) -> UUID | None:
    """Make the artifact, or change it; no training ends since Prefect's server is away."""
    try:
        if shown is None:
            return cast("UUID", create_progress_artifact(percent, PROGRESS, text))
        update_progress_artifact(shown, percent, text)
    except Exception as error:  # noqa: BLE001 (whatever the server's client raises)
        logger.warning("the progress of the training cannot be shown: %s", safe_text(error))
    return shown


def _log_epoch(member: str, epoch: int, train_loss: float, validation_loss: float) -> None:
    logger.info(
        "%s, epoch %d: loss %.4f, held out %.4f", member, epoch, train_loss, validation_loss
    )
