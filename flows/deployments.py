"""The deployments: what runs where, how often, and after what. ``prefect.yaml`` is written from here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from flows.engine import QUIET

TAG = "nightwarden"
NIGHT_TAG = "nightwarden-night"  # of a night within a run that catches up
GRACE_SECONDS = 120  # for a worker to start a run before the deployment's slot is free again
JOB_ENVIRONMENT = {
    **QUIET,
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,tasks,models,warehouse",
}
"""What every deployed run gets: the steps' messages go to the server, and nobody is phoned."""

LAKE_SECRETS = ("NIGHTWARDEN_WAREHOUSE__CATALOG", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SHARED_SECRETS = (
    *LAKE_SECRETS,
    "NIGHTWARDEN_QUEUE__DATABASE",
    "NIGHTWARDEN_MLFLOW__TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
SOURCE_SECRETS = ("NIGHTWARDEN_SOURCE_DSN", "NIGHTWARDEN_PSEUDONYM_KEY")


@dataclass(frozen=True)
class Deployment:
    """A flow that workers of a pool run; ``priority`` 1 is the first to get a free slot.

    ``secrets`` are the variables that its runs get from Secret blocks of the server, where there are
    such, which the worker opens: no more than it needs.
    """

    name: str
    entrypoint: str
    pool: str
    priority: int
    cron: str | None
    description: str
    secrets: tuple[str, ...]


DEPLOYMENTS = (
    Deployment(
        "nightly",
        "flows.nightly.nightly",
        "cpu",
        1,
        "30 3 * * *",
        "Every night that is due and not done, oldest first: ingest, score, queue.",
        (*SHARED_SECRETS, *SOURCE_SECRETS),
    ),
    Deployment(
        "train",
        "flows.train.train",
        "gpu",
        1,
        "0 6 * * 0",
        "A new model on what is known today; promoting it is a person's decision.",
        SHARED_SECRETS,
    ),
    Deployment(
        "backfill",
        "flows.backfill.backfill",
        "cpu",
        10,
        None,
        "Past days like nights, into a lane of their own; give start and end.",
        (*SHARED_SECRETS, *SOURCE_SECRETS),
    ),
    Deployment(
        "maintain",
        "flows.maintain.maintain",
        "cpu",
        20,
        "0 12 * * *",
        "Merge the lake's small files; nothing expires.",
        LAKE_SECRETS,
    ),
)
"""Each has a queue of its own name, and one run at a time: a second waits for the first."""


def pool_slots() -> Mapping[str, int]:
    """Give for each pool a slot for each of its deployments, so that a night waits for none."""
    pools = [one.pool for one in DEPLOYMENTS]
    return {pool: pools.count(pool) for pool in dict.fromkeys(pools)}


def describe_yaml() -> str:
    """Write ``prefect.yaml``, for ``prefect deploy``."""
    blocks = [_describe(one) for one in DEPLOYMENTS]
    return HEADER + "\n".join(blocks)


HEADER = """\
# Written by make docs from flows/deployments.py. `nightwarden deploy` makes the same deployments
# with the source's time zone, and the pools, queues, automations and secrets with them.
# `prefect deploy --all` needs the pools first: prefect work-pool create cpu --type process
name: nightwarden
pull: []

deployments:
"""


def _describe(one: Deployment) -> str:
    lines = [
        f"  - name: {one.name}",
        f"    entrypoint: {one.entrypoint}",
        f"    description: {json.dumps(one.description)}",
        f"    tags: [{TAG}]",
        "    concurrency_limit:",
        "      limit: 1",
        "      collision_strategy: ENQUEUE",
        f"      grace_period_seconds: {GRACE_SECONDS}",
        "    parameters:",
        "      config: null",
        "    work_pool:",
        f"      name: {one.pool}",
        f"      work_queue_name: {one.name}",
        "      job_variables:",
        "        env:",
        *(f"          {name}: {json.dumps(text)}" for name, text in JOB_ENVIRONMENT.items()),
    ]
    if one.cron:
        lines += [
            "    schedules:",
            f"      - cron: {json.dumps(one.cron)}",
            "        timezone: UTC",
        ]
    return "\n".join(lines) + "\n"
