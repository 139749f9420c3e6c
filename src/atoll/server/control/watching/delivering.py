"""
Delivers events to webhooks: at least once each, as long as the webhook takes it before the attempts end.

What is to be delivered are rows, written with the events: a server that dies forgets none, and sends one
twice whose receipt it did not write down. Each webhook has turns of its own: a slow one keeps only itself.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from tenacity import AsyncRetrying, RetryCallState, wait_exponential_jitter

from atoll.server.control.watching.webhooks import WebhookLimits
from atoll.server.domain import webhooks as rules
from atoll.server.domain.errors import AtollError
from atoll.server.domain.webhooks import Delivery, DeliveryStatus
from atoll.server.ports.clock import Clock
from atoll.server.ports.webhooks import Courier, DeliveryStore, Letter, Receipt

log = structlog.get_logger(__name__)

# After the rows could not be read or written (a full disk, say), wait so long before the next try.
_RETRY_DELAY = timedelta(seconds=5)
_OK = range(200, 300)


class Delivering:
    """Sends what waits."""

    def __init__(
        self, *, store: DeliveryStore, courier: Courier, clock: Clock, limits: WebhookLimits
    ) -> None:
        self._store = store
        self._courier = courier
        self._clock = clock
        self._limits = limits
        self._wait = wait_exponential_jitter(
            multiplier=limits.retry_delay.total_seconds(),
            max=limits.retry_delay_most.total_seconds(),
            jitter=limits.retry_delay.total_seconds() / 2,
        )
        self._called = asyncio.Event()
        # Webhooks that have their turn, and those that may not before a time.
        self._busy: set[str] = set()
        self._resting: dict[str, datetime] = {}
        # The number of each one's last turn.
        self._served: dict[str, int] = {}
        self._turn_number = 0

    def call(self) -> None:
        """Say that something new waits."""
        self._called.set()

    async def run(self) -> None:
        """Deliver what is due, wait for more, for ever."""
        async with asyncio.TaskGroup() as turns:
            while True:
                self._called.clear()
                try:
                    until = await self._start_turns(turns)
                except AtollError as error:
                    log.warning("deliveries not read", error=str(error))
                    until = self._clock.now() + _RETRY_DELAY
                await self._sleep_or_hear(until)

    async def _start_turns(self, turns: asyncio.TaskGroup) -> datetime | None:
        """Give turns to webhooks for which something is due; return when to look again, None: when called."""
        now = self._clock.now()
        waiting = {
            webhook_id: max(due, self._resting.get(webhook_id, due))
            for webhook_id, due in await self._store.waiting()
        }
        # Who waits no more is forgotten here.
        self._served = {one: turn for one, turn in self._served.items() if one in waiting}
        self._resting = {one: until for one, until in self._resting.items() if one in waiting}
        idle = [one for one in waiting if one not in self._busy]
        room = max(self._limits.webhooks_at_once, 1) - len(self._busy)
        due_now = [one for one in idle if waiting[one] <= now]
        # Who was served longest ago: those that are always behind must not take all the turns.
        for webhook_id in sorted(due_now, key=lambda one: self._served.get(one, 0))[:room]:
            self._busy.add(webhook_id)
            self._turn_number += 1
            self._served[webhook_id] = self._turn_number
            turns.create_task(self._turn(webhook_id), name=f"deliver to {webhook_id}")
        return min((waiting[one] for one in idle if waiting[one] > now), default=None)

    async def _turn(self, webhook_id: str) -> None:
        try:
            letters = await self._store.due(webhook_id, self._clock.now(), most=max(self._limits.at_once, 1))
            by_sandbox: dict[str, list[Letter]] = defaultdict(list)
            for letter in letters:
                by_sandbox[letter.delivery.event.sandbox_id].append(letter)
            async with asyncio.TaskGroup() as group:
                for chain in by_sandbox.values():
                    group.create_task(self._deliver_all(chain))
            self._resting.pop(webhook_id, None)
        # Whatever it was: the others' turns go on.
        except* Exception as errors:
            log.warning("webhook not served", webhook_id=webhook_id, exc_info=errors)
            self._resting[webhook_id] = self._clock.now() + _RETRY_DELAY
        finally:
            self._busy.discard(webhook_id)
            self.call()

    async def _deliver_all(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            tried_at = self._clock.now()
            receipt = await self._send(letter)
            ended = self._after(letter.delivery, receipt, tried_at)
            await self._store.record(ended, keep=max(self._limits.log_kept, 0))
            log.debug(
                "webhook called",
                webhook_id=ended.webhook_id,
                delivery_id=ended.id,
                attempt=ended.attempts,
                status=ended.status.value,
                http_status=ended.http_status,
                problem=ended.problem,
            )

    async def _send(self, letter: Letter) -> Receipt:
        if letter.secret is None:
            problem = "the signature secret cannot be read any more: set it again"
            return Receipt(status=None, problem=problem, duration_ms=0)
        body = rules.body(letter.delivery.event)
        headers = {
            "content-type": "application/json",
            "user-agent": "atoll-webhooks",
            "e2b-webhook-id": letter.delivery.webhook_id,
            "e2b-delivery-id": letter.delivery.id,
            "e2b-signature-version": rules.SIGNATURE_VERSION,
            "e2b-signature": rules.signature(letter.secret, body),
        }
        return await self._courier.post(letter.url, headers, body)

    def _after(self, delivery: Delivery, receipt: Receipt, tried_at: datetime) -> Delivery:
        attempts = delivery.attempts + 1
        taken = receipt.status in _OK
        again = not taken and attempts < self._limits.attempts
        status = DeliveryStatus.SUCCESS if taken else DeliveryStatus.FAILED
        problem = receipt.problem or ("" if taken else f"HTTP {receipt.status}")
        return replace(
            delivery,
            status=DeliveryStatus.PENDING if again else status,
            attempts=attempts,
            due=self._clock.now() + self._pause(attempts) if again else None,
            tried_at=tried_at,
            duration_ms=receipt.duration_ms,
            http_status=receipt.status,
            problem=problem,
        )

    def _pause(self, attempts: int) -> timedelta:
        # The schedule is tenacity's; the loop is not: between two attempts the server may be another one.
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = attempts
        return timedelta(seconds=self._wait(state))

    async def _sleep_or_hear(self, until: datetime | None) -> None:
        if until is None:
            await self._called.wait()
            return
        async with asyncio.TaskGroup() as group:
            either = [
                group.create_task(self._clock.sleep_until(until)),
                group.create_task(_wait(self._called)),
            ]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
