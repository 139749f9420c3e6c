"""
Watches what sandboxes use: takes a sample of each every few seconds, and shows them to their owners.

The host is asked, never the guest: an idle one sleeps on. While no server runs, no samples are taken.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor
from atoll.server.control.rows.reading import Reading
from atoll.server.domain.errors import AtollError, InvalidArgumentError, NotFoundError
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.domain.metrics import Point, Sample, next_round, points
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.clock import Clock
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.samples import Samples
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

_ANY = frozenset(Status)
# Whatever the settings say: sampling must not be all that the server does.
_LEAST_PAUSE = timedelta(seconds=0.1)


@dataclass(frozen=True, kw_only=True)
class MetricsLimits:
    """
    How often is measured, and how much of it is kept.

    Attributes:
        every: time between samples; E2B's clients know 5 s. A sample of one sandbox costs 0.1 ms of the
            host, of one that idles 0.03 ms.
        samples_kept: samples of one sandbox, 40 bytes each; when there are as many, the oldest quarter goes.
            Those of a day are 0.7 MB.
        keep: how long samples are kept after a sandbox's last one.
        total_bytes: of all samples together; beyond it go those of the sandboxes that ended first.
        forget_every: how often is looked for what is to go.
        points: that one answer has at most; where more samples were asked for, several become one point.
    """

    every: timedelta = timedelta(seconds=5)
    samples_kept: int = 17_280
    keep: timedelta = timedelta(days=2)
    total_bytes: int = 1024 * 1024 * 1024
    forget_every: timedelta = timedelta(minutes=10)
    points: int = 1000


class Observing:
    """Takes samples and shows them."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        samples: Samples,
        clock: Clock,
        limits: ControlLimits,
        metrics: MetricsLimits,
        nobodys: Callable[[], Collection[SandboxId]] = frozenset,
    ) -> None:
        """
        Args:
            nobodys: lists the machines that are no sandboxes.
            The rest: as everywhere in control.
        """
        self._runtime = runtime
        self._samples = samples
        self._clock = clock
        self._limits = metrics
        self._nobodys = nobodys
        self._reading = Reading(store=store, limits=limits)

    async def run(self) -> None:
        """Take samples, for ever; what cannot be kept is said in the log, and the next round is tried."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sample())
            group.create_task(self._forget())

    async def metrics(
        self,
        actor: Actor,
        untrusted_id: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> tuple[Sandbox, Sequence[Point]]:
        """
        Read what a sandbox used, also one that has ended, and its row.

        Args:
            actor: who asks.
            untrusted_id: as the caller gave it.
            start: first moment; None: the first there is.
            end: last moment; None: now.

        Raises:
            InvalidArgumentError: the id has another form, or the end is before the start.
            NotFoundError: no such sandbox.
        """
        if start is not None and end is not None and end < start:
            raise InvalidArgumentError("the end must not be before the start")
        row = await self._reading.get(actor, parse_sandbox_id(untrusted_id), statuses=_ANY)
        samples = await self._samples.read(row.id, start=start, end=end)
        if not samples and row.status is Status.RUNNING and (end is None or end >= self._clock.now()):
            samples = await self._first(row.id)
        return row, self._points(row, samples, start)

    async def last_metrics(
        self, actor: Actor, untrusted_ids: Sequence[str]
    ) -> Mapping[SandboxId, tuple[Sandbox, Point]]:
        """
        Read what running sandboxes used last; those that are not the actor's, or not there, miss.

        Raises:
            InvalidArgumentError: an id has another form.
        """
        rows = {}
        for untrusted_id in untrusted_ids:
            sandbox_id = parse_sandbox_id(untrusted_id)
            try:
                rows[sandbox_id] = await self._reading.get(
                    actor, sandbox_id, statuses=frozenset({Status.RUNNING})
                )
            except NotFoundError:
                continue
        # Two of each: what was used is the difference.
        samples = dict(await self._samples.last(list(rows), 2))
        for sandbox_id in rows.keys() - samples.keys():
            samples[sandbox_id] = await self._first(sandbox_id)
        return {
            sandbox_id: (row, self._points(row, samples[sandbox_id], None)[-1])
            for sandbox_id, row in rows.items()
            if samples[sandbox_id]
        }

    def _points(self, row: Sandbox, samples: Sequence[Sample], start: datetime | None) -> Sequence[Point]:
        began = row.started_at or row.created_at
        return points(samples, began=began, most=max(self._limits.points, 1), since=start or began)

    async def _first(self, sandbox_id: SandboxId) -> Sequence[Sample]:
        """Take the first sample of a sandbox that is younger than a round."""
        try:
            usage = await self._runtime.usage(sandbox_id)
        except NotFoundError:
            return ()
        sample = Sample(
            at=self._clock.now(),
            cpu_seconds=usage.cpu_seconds,
            memory_bytes=usage.memory_bytes,
            cache_bytes=usage.cache_bytes,
            disk_bytes=usage.disk_bytes,
        )
        return (sample,)

    async def _sample(self) -> None:
        every = max(self._limits.every, _LEAST_PAUSE)
        while True:
            await self._clock.sleep_until(next_round(self._clock.now(), every))
            try:
                await self._round()
            except AtollError as error:
                log.warning("samples not kept", error=str(error))

    async def _round(self) -> None:
        nobodys = self._nobodys()
        usages = await self._runtime.usages()
        now = self._clock.now()
        await self._samples.add(
            {
                sandbox_id: Sample(
                    at=now,
                    cpu_seconds=usage.cpu_seconds,
                    memory_bytes=usage.memory_bytes,
                    cache_bytes=usage.cache_bytes,
                    disk_bytes=usage.disk_bytes,
                )
                for sandbox_id, usage in usages.items()
                if sandbox_id not in nobodys
            }
        )

    async def _forget(self) -> None:
        pause = max(self._limits.forget_every, _LEAST_PAUSE)
        while True:
            try:
                forgotten = await self._samples.forget(
                    before=self._clock.now() - self._limits.keep, most_bytes=self._limits.total_bytes
                )
            except AtollError as error:
                log.warning("old samples not forgotten", error=str(error))
            else:
                if forgotten:
                    log.info("old samples forgotten", sandboxes=forgotten)
            await self._clock.sleep_until(self._clock.now() + pause)
