"""Tells other programs, such as a case system, of every change: in order, signed, with retries.

A block of changes counts as delivered once the receiver has answered 2xx, so a receiver may get a
block again, after a crash for one: the same block under the same name, in the header
``X-Nightwarden-Delivery``. It keeps the number of the last change that it took, and leaves out those
up to it.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Thread

import httpx

from desk.api_records import ChangeRecord
from desk.context import DeskContext
from desk.settings import WebhookSettings
from warehouse.errors import SettingsError
from warehouse.feed import FeedBlock, read_feed
from warehouse.webhook_deliveries import (
    MOST_CHANGES,
    give_lease_back,
    lease_webhook,
    note_delivered,
    note_failed,
    start_webhooks,
)

PAUSE_SECONDS = 1.0
ANSWER_SECONDS = 10.0
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(hours=1)
STOP_SECONDS = 5.0
LOG = logging.getLogger(__name__)


class WebhookSender:
    """Posts changes to the webhooks of the settings while it runs."""

    def __init__(self, context: DeskContext, chance: Callable[[], float] = random.random) -> None:
        """Take the queue and the webhooks of a context.

        Args:
            context: The desk's.
            chance: Gives numbers from 0 to 1, by which waits differ.

        Raises:
            SettingsError: if there are webhooks, and no secret to sign with.
        """
        self._queue = context.queue
        self._webhooks = context.settings.webhooks
        secret = context.settings.webhook_secret
        if self._webhooks and not secret:
            # said here, as other hosts have the same settings file and need no secret of the desk
            message = "webhooks need a secret to sign with; set NIGHTWARDEN_WEBHOOK_SECRET"
            raise SettingsError(message)
        self._secret = secret.get_secret_value().encode() if secret else b""
        self._chance = chance

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send in a thread of its own until the block ends; without webhooks, do nothing."""
        if not self._webhooks:
            yield
            return
        start_webhooks(self._queue, [webhook.name for webhook in self._webhooks])
        loop = asyncio.new_event_loop()
        sending = loop.create_task(self._send_to_all())
        thread = Thread(target=_run, args=(loop, sending), name="webhooks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(sending.cancel)
            thread.join(STOP_SECONDS)

    async def _send_to_all(self) -> None:
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, follow_redirects=False) as client:
            await asyncio.gather(*(self._serve(client, webhook) for webhook in self._webhooks))

    async def _serve(self, client: httpx.AsyncClient, webhook: WebhookSettings) -> None:
        """Tell one webhook of changes for ever; whatever fails is tried again."""
        while True:
            has_sent = False
            try:
                has_sent = await self.send_block(client, webhook)
            except Exception:
                LOG.exception("Webhook %s: its deliveries cannot be noted.", webhook.name)
            await asyncio.sleep(0 if has_sent else PAUSE_SECONDS)

    async def send_block(self, client: httpx.AsyncClient, webhook: WebhookSettings) -> bool:
        """Post the next block, if there is one and it is due; tell whether it was taken."""
        lease = lease_webhook(self._queue, webhook.name)
        if lease is None:
            return False
        try:
            block = read_feed(
                self._queue,
                cursor=lease.last_change,
                limit=MOST_CHANGES,
                until=lease.block_last,
            )
            error = await self._post(client, webhook, block)
        except BaseException:
            give_lease_back(self._queue, lease)
            raise
        if error is None:
            return note_delivered(self._queue, lease, block.next_cursor)
        wait = wait_after(lease.attempts, self._chance())
        LOG.warning(
            "Webhook %s: failed (%s); next try in %d s.", webhook.name, error, wait.seconds
        )
        note_failed(self._queue, lease, error, wait)
        return False

    async def _post(
        self, client: httpx.AsyncClient, webhook: WebhookSettings, block: FeedBlock
    ) -> str | None:
        """Post a block; give what went wrong, or None if it was taken."""
        body = write_body(webhook.name, block)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Nightwarden",
            "X-Nightwarden-Signature": sign(
                self._secret, int(self._queue.clock().timestamp()), body
            ),
            "X-Nightwarden-Delivery": f"{webhook.name}-{block.changes[0].id}-{block.next_cursor}",
        }
        try:
            # httpx limits each read, and a receiver could go on dripping; this limits the whole.
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                client.stream("POST", webhook.url, content=body, headers=headers) as response,
            ):
                status = response.status_code
        except TimeoutError:
            return f"no answer within {ANSWER_SECONDS:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return None if 200 <= status < 300 else f"expected an answer 2xx, got {status}"


def _run(loop: asyncio.AbstractEventLoop, sending: "asyncio.Task[None]") -> None:
    try:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(sending)
    except Exception:
        LOG.exception("Webhooks are no longer told of changes; start the desk again.")
    finally:
        loop.close()


def write_body(webhook: str, block: FeedBlock) -> bytes:
    """Write a block's changes, as the API gives them, with their first and last number."""
    changes = [ChangeRecord.model_validate(change) for change in block.changes]
    content = {
        "webhook": webhook,
        "first": changes[0].id,
        "last": changes[-1].id,
        "changes": [change.model_dump(mode="json") for change in changes],
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def sign(secret: bytes, moment: int, body: bytes) -> str:
    """Give the signature's header: the moment in Unix seconds, and HMAC-SHA256 of it and the body.

    A receiver computes it anew, and refuses bodies of long ago.

    Example:
        >>> sign(b"secret", 1, b"{}")[:12]
        't=1,v1=11227'
    """
    digest = hmac.new(secret, f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def wait_after(attempts: int, chance: float) -> timedelta:
    """Give how long to wait after so many earlier failures: twice as long each time, up to a fifth less.

    Example:
        >>> [wait_after(attempts, 0).seconds for attempts in (0, 1, 2, 30)]
        [5, 10, 20, 3600]
    """
    wait = min(LONGEST_WAIT, FIRST_WAIT * (1 << min(attempts, 16)))
    return wait * (1 - 0.2 * chance)
