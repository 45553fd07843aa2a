"""How many tasks of a run go on side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner


@contextmanager
def at_a_time(workers: int) -> Iterator[None]:
    """Run the tasks that the block submits in so many threads; call it inside a flow.

    A flow's own runner is chosen before the flow has read its settings, and a deployment calls the
    flow as it is.

    Raises:
        RuntimeError: outside a flow.
    """
    context = FlowRunContext.get()
    if context is None:
        message = "tasks are submitted inside a flow alone"
        raise RuntimeError(message)
    threads: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
    with threads as runner, context.model_copy(update={"task_runner": runner}):
        yield
