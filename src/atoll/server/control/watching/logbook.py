"""
The log of each sandbox: its life, and what its guest says about commands.

guestd holds the newest lines. They are fetched when somebody reads the log, before the sandbox is removed,
and now and then from those that are busy: an idle guest is left asleep.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor
from atoll.server.control.rows.reading import Reading
from atoll.server.domain.errors import AtollError, InvalidArgumentError
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.domain.logs import Level, Line, LogQuery, life, select
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.clock import Clock
from atoll.server.ports.guest import Guest
from atoll.server.ports.lines import Lines
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

_ANY = frozenset(Status)
# Whatever the settings say: fetching must not be all that the server does.
_LEAST_PAUSE = timedelta(seconds=0.1)


@dataclass(frozen=True, kw_only=True)
class LogLimits:
    """
    How much of sandboxes' logs is kept.

    Attributes:
        sandbox_bytes: of one sandbox; when there is more, the oldest quarter goes. A command makes two
            lines of some 200 bytes.
        keep: how long a log is kept after its last line; its owner loses it with the sandbox's row anyway.
        total_bytes: of all logs together; beyond it go those of the sandboxes that were quiet longest.
        forget_every: how often is looked for what is to go.
        fetch_every: how often lines are fetched from sandboxes that did something, for when they end by
            themselves. guestd holds 1,000 lines.
        busy_cpu_seconds: time of processors that a sandbox used meanwhile to be one of them; being asked
            costs it some milliseconds.
        idle_cpus: cores that a sandbox uses while it idles; 0.0001 were seen. So much counts for nothing:
            else one that idles is asked now and then, which has it use more.
        start_cpu_seconds: what the start of a sandbox takes of that, 0.12 s were seen: who was only started
            is not busy.
        fetches_at_once: sandboxes that are asked at the same time.
        reads_at_once: answers of 48 KiB that are read from one sandbox in a row: all that guestd holds of
            commands with a kilobyte each.
        fetch_timeout: for all that is read from one sandbox in a row; it takes milliseconds. A kill waits for
            it, so a guest that answers slowly must not stretch it.
        page: lines of one answer at most.
    """

    sandbox_bytes: int = 1024 * 1024
    keep: timedelta = timedelta(days=7)
    total_bytes: int = 1024 * 1024 * 1024
    forget_every: timedelta = timedelta(minutes=10)
    fetch_every: timedelta = timedelta(seconds=30)
    busy_cpu_seconds: float = 0.02
    idle_cpus: float = 0.0002
    start_cpu_seconds: float = 0.15
    fetches_at_once: int = 4
    reads_at_once: int = 24
    fetch_timeout: timedelta = timedelta(seconds=1)
    page: int = 1000


@dataclass(kw_only=True)
class _Fetched:
    """How far a sandbox's lines are fetched; None before that was looked up."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    last: int | None = None
    newest: datetime | None = None


class Logbook:
    """Fetches lines and shows them."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        guest: Guest,
        lines: Lines,
        clock: Clock,
        limits: ControlLimits,
        logs: LogLimits,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._guest = guest
        self._lines = lines
        self._clock = clock
        self._limits = logs
        self._reading = Reading(store=store, limits=limits)
        self._fetched: dict[SandboxId, _Fetched] = {}
        self._at_once = asyncio.Semaphore(max(logs.fetches_at_once, 1))

    async def run(self) -> None:
        """Fetch from busy sandboxes and forget old lines, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fetch_now_and_then())
            group.create_task(self._forget())

    async def read(self, actor: Actor, untrusted_id: str, query: LogQuery) -> Sequence[Line]:
        """
        Read a sandbox's log, also of one that has ended.

        Raises:
            InvalidArgumentError: the id has another form, or too many lines are asked for, or none.
            NotFoundError: no such sandbox.
        """
        if not 1 <= query.most <= self._limits.page:
            raise InvalidArgumentError(f"limit must be between 1 and {self._limits.page}")
        row = await self._reading.get(actor, parse_sandbox_id(untrusted_id), statuses=_ANY)
        await self._fetch_of(row)
        return select([*life(row), *_once(await self._lines.read(row.id))], query)

    async def part(self, sandbox_id: SandboxId) -> None:
        """Fetch the last lines of a sandbox that is about to go; what fails is no reason to keep it."""
        try:
            # Its turn may be long in coming, too.
            async with asyncio.timeout(2 * self._limits.fetch_timeout.total_seconds()):
                await self._fetch_of(await self._store.get_sandbox(sandbox_id))
        except (AtollError, TimeoutError):
            pass
        finally:
            self._fetched.pop(sandbox_id, None)

    async def _fetch_of(self, row: Sandbox) -> None:
        if row.address is None or row.status not in (Status.RUNNING, Status.KILLING):
            return
        # A machine that ended answers nothing, and would take all the time there is for that.
        living = (await self._runtime.observe()).machines
        await self._fetch([machine for machine in living if machine.sandbox_id == row.id])

    async def _fetch(self, machines: Iterable[Machine]) -> None:
        async with asyncio.TaskGroup() as group:
            for machine in machines:
                group.create_task(self._fetch_one(machine))

    async def _fetch_one(self, machine: Machine) -> None:
        fetched = self._fetched.setdefault(machine.sandbox_id, _Fetched())
        # Two at once would keep lines twice.
        async with self._at_once, fetched.turn:
            try:
                async with asyncio.timeout(self._limits.fetch_timeout.total_seconds()):
                    await self._fetch_lines(machine, fetched)
            except (AtollError, TimeoutError) as error:
                log.debug("log not fetched", sandbox_id=machine.sandbox_id, error=str(error))
                fetched.last = None  # What is kept says how far it came.

    async def _fetch_lines(self, machine: Machine, fetched: _Fetched) -> None:
        if fetched.last is None:
            kept = await self._lines.read(machine.sandbox_id)
            fetched.newest = kept[-1].at if kept else None
            fetched.last = max((line.number for line in kept), default=0)
        for _ in range(max(self._limits.reads_at_once, 1)):
            lines, more = await self._guest.read_journal(machine, after=fetched.last)
            if not lines:
                return
            credible = _credible(lines, fetched.last, fetched.newest, self._clock.now())
            await self._lines.add(machine.sandbox_id, credible)
            fetched.last, fetched.newest = lines[-1].number, credible[-1].at
            if not more:
                return

    async def _fetch_now_and_then(self) -> None:
        pause = max(self._limits.fetch_every, _LEAST_PAUSE)
        used: Mapping[SandboxId, float] = {}
        while True:
            await self._clock.sleep_until(self._clock.now() + pause)
            try:
                used = await self._fetch_busy(used)
            except AtollError as error:
                log.warning("logs not fetched", error=str(error))

    async def _fetch_busy(self, used: Mapping[SandboxId, float]) -> Mapping[SandboxId, float]:
        usages = await self._runtime.usages()
        before = {sandbox_id: used.get(sandbox_id, self._limits.start_cpu_seconds) for sandbox_id in usages}
        busy = {
            sandbox_id
            for sandbox_id, usage in usages.items()
            if usage.cpu_seconds - before[sandbox_id] >= self._limits.busy_cpu_seconds
        }
        for gone in self._fetched.keys() - usages.keys():
            del self._fetched[gone]
        machines = (await self._runtime.observe()).machines
        await self._fetch([machine for machine in machines if machine.sandbox_id in busy])
        # Those that were not busy go on counting, so that what is done a little at a time comes up too.
        idled = self._limits.idle_cpus * max(self._limits.fetch_every, _LEAST_PAUSE).total_seconds()
        return {
            sandbox_id: usage.cpu_seconds
            if sandbox_id in busy
            else min(before[sandbox_id] + idled, max(before[sandbox_id], usage.cpu_seconds))
            for sandbox_id, usage in usages.items()
        }

    async def _forget(self) -> None:
        pause = max(self._limits.forget_every, _LEAST_PAUSE)
        while True:
            try:
                forgotten = await self._lines.forget(
                    before=self._clock.now() - self._limits.keep, most_bytes=self._limits.total_bytes
                )
            except AtollError as error:
                log.warning("old logs not forgotten", error=str(error))
            else:
                if forgotten:
                    log.info("old logs forgotten", sandboxes=forgotten)
            await self._clock.sleep_until(self._clock.now() + pause)


def _once(lines: Iterable[Line]) -> Iterator[Line]:
    """Leave out lines that were kept twice, because a fetch was cut off while it wrote them."""
    last = 0
    for line in lines:
        if line.number > last:
            last = line.number
            yield line


def _credible(lines: Sequence[Line], last: int, newest: datetime | None, now: datetime) -> Sequence[Line]:
    """Give lines times that are possible, whatever the guest's clock says, and say where some are missing."""
    found: list[Line] = []
    for line in lines:
        at = min(line.at if newest is None else max(line.at, newest), now)
        if line.number > last + 1:
            found.append(_missing(line.number - last - 1, at, line.number - 1))
        found.append(replace(line, at=at))
        last, newest = line.number, at
    return found


def _missing(number: int, at: datetime, last: int) -> Line:
    fields = {"logger": "sandbox", "lines": str(number)}
    return Line(at=at, level=Level.WARN, message="lines were lost", fields=fields, number=last)
