"""Analysts at work on a desk over HTTP, for benchmarks/review_desk.py: look, take, read, decide."""

import asyncio
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

PASSWORD = "a long load test password"  # noqa: S105 - of analysts who live as long as a test
VERDICTS = ("fraud", "genuine", "genuine", "unsure")
TIMEOUT_SECONDS = 30.0
SEEN = re.compile(r'name="seen-(\d+)"')
CSRF = re.compile(r'name="csrf_token" value="([^"]+)"')
WAITS = re.compile(r"/cases/(\d+)")


@dataclass
class Record:
    """What came of the work.

    Attributes:
        seconds: Of every answer, by what was asked for.
        acknowledged: Alerts whose verdict the desk confirmed, and who gave it.
        unanswered: Alerts of which nobody knows: the answer did not come.
        errors: What went wrong, and how often.
        conflicts: Cases that had changed between the look and the verdict.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: list[tuple[int, str]] = field(default_factory=list)
    unanswered: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0


@dataclass
class Worker:
    """One analyst with a browser."""

    name: str
    client: httpx.AsyncClient
    record: Record
    think: float
    draw: random.Random

    async def work(self, until: float) -> None:
        """Work until a moment of ``time.monotonic``."""
        await asyncio.sleep(self.draw.random() * max(self.think, 0.1))  # nobody starts together
        while time.monotonic() < until:
            await self._look_and_decide()

    async def sign_in(self) -> None:
        """Sign in and remember the token that forms carry.

        Raises:
            RuntimeError: if the desk lets nobody in.
        """
        form = {"name": self.name, "password": PASSWORD, "next": "/queue"}
        answer = await self.client.post("/sign-in", data=form, follow_redirects=True)
        token = CSRF.search(answer.text)
        if answer.status_code != 200 or token is None:
            raise RuntimeError(f"{self.name} could not sign in: {answer.status_code}")
        self.client.headers["X-CSRF-Token"] = token.group(1)

    async def _look_and_decide(self) -> None:
        await self._ask("queue page", "GET", "/queue", expected=[200])
        await self._pause()
        taken = await self._ask("next case", "POST", "/queue/next", expected=[303])
        found = WAITS.match(taken.headers["location"]) if taken is not None else None
        if found is None:
            return
        path = found.group(0)
        page = await self._ask("case page", "GET", path, expected=[200])
        await self._pause()
        if page is not None:
            await self._decide(path, [int(number) for number in SEEN.findall(page.text)])

    async def _decide(self, path: str, alerts: Sequence[int]) -> None:
        waiting = sorted(set(alerts))
        form = {f"seen-{alert}": "" for alert in waiting}
        form |= {"verdict": self.draw.choice(VERDICTS), "note": f"seen by {self.name}"}
        answer = await self._ask(
            "decide",
            "POST",
            f"{path}/decide",
            expected=[200, 409],
            data=form,
            headers={"HX-Request": "1"},
        )
        if answer is None:
            self.record.unanswered += waiting
        elif answer.status_code == 409:
            self.record.conflicts += 1
        else:
            self.record.acknowledged += [(alert, self.name) for alert in waiting]

    async def _ask(
        self, what: str, method: str, path: str, *, expected: Sequence[int], **options: object
    ) -> httpx.Response | None:
        """Ask and time the answer; None where there was no right one."""
        started = time.perf_counter()
        try:
            answer = await self.client.request(method, path, **options)  # type: ignore[arg-type]  # httpx's own options
        except httpx.HTTPError as error:
            self.record.errors[f"{what}: {type(error).__name__}"] += 1
            return None
        self.record.seconds[what].append(time.perf_counter() - started)
        if answer.status_code not in expected:
            self.record.errors[f"{what}: {answer.status_code}"] += 1
            return None
        return answer

    async def _pause(self) -> None:
        await asyncio.sleep(self.think * self.draw.uniform(0.5, 1.5))


async def work_together(
    address: str, names: Sequence[str], *, seconds: float, think: float, seed: int
) -> Record:
    """Let analysts sign in one after the other, then work at the same time."""
    record = Record()
    clients = [httpx.AsyncClient(base_url=address, timeout=TIMEOUT_SECONDS) for _ in names]
    workers = [
        Worker(name, client, record, think, random.Random(f"{seed} {name}"))  # noqa: S311 (no secrets)
        for name, client in zip(names, clients, strict=True)
    ]
    try:
        for worker in workers:
            await worker.sign_in()
        until = time.monotonic() + seconds
        await asyncio.gather(*(worker.work(until) for worker in workers))
    finally:
        for client in clients:
            await client.aclose()
    return record
