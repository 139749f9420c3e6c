"""
The pool: machines that were restored from a warm template and wait, so that a create only claims one.

A waiting machine has the id, host name and address that its sandbox will have, and no row; what a create may
choose else, it is told when it is claimed. A server that dies leaves machines without a row, which the next
one removes. What the pool does, it does when nobody wants anything else (``Admission.spare``).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from atoll.server.control.admission import Admission
from atoll.server.control.configuring import Configuring, within
from atoll.server.control.killing import Killing
from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor
from atoll.server.control.tasks import Tasks
from atoll.server.control.warming import GENERATION, Warming, machine_spec
from atoll.server.domain.errors import (
    AtollError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, TeamId, new_sandbox_id
from atoll.server.domain.keys import KeyKind
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import Machine
from atoll.server.domain.pool import Demand, PoolKey, PoolStatus, Stock, first_to_go, sizes
from atoll.server.domain.template import Template
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class PoolLimits:
    """
    How many machines wait, and what they may cost.

    Attributes:
        memory_bytes: of all machines that wait together; 0: none wait, and every create boots. A small one
            takes 25 MB, so the default holds some 40.
        least_free_bytes: what the host has available besides; below it no machine is made, and those that
            wait are given up one by one, so that sandboxes get the memory.
        templates: names, separated by commas, that are kept ready before anybody asks.
        least: machines that wait of each of those, and of each that was asked for lately.
        most: machines that wait of one kind; beyond a burst of so many, creates restore by themselves.
        window: creates that come within this count as one burst; the pool wants to hold the largest.
        remember: how long a burst is remembered. Then the pool shrinks, and a template that nobody asked
            for since has no pool any more.
        kinds: pairs of template and size that can have a pool; beyond it goes one of the team that asked for
            most of them, that which was not asked for longest.
        assumed_bytes: what a machine takes before the first of its kind was looked at.
        refills_at_once: machines that are made at once when nothing else goes on.
        calm: how long nothing else goes on before one is made: the create that took a machine is still being
            answered, and the next of a burst may be on its way.
        look_every: how often is looked whether the pool is to shrink, or to try again what failed.
        again: how long a kind of machine that could not be made is let alone.
        claim_timeout: how long a waiting machine may take to become a sandbox, 2 ms mostly; then it is
            thrown away, and the create goes the long way.
    """

    memory_bytes: int = 1024 * MIB
    least_free_bytes: int = 1024 * MIB
    templates: str = "base"
    least: int = 2
    most: int = 128
    window: timedelta = timedelta(seconds=5)
    remember: timedelta = timedelta(minutes=10)
    kinds: int = 32
    assumed_bytes: int = 64 * MIB
    refills_at_once: int = 2
    calm: timedelta = timedelta(milliseconds=20)
    look_every: timedelta = timedelta(seconds=5)
    again: timedelta = timedelta(seconds=30)
    claim_timeout: timedelta = timedelta(seconds=2)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names in ``templates``."""
        return tuple(name.strip() for name in self.templates.split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """
    A machine that waits.

    Attributes:
        machine: what was restored.
        key: what it is good for.
        generation: what it was told last.
        since: when it began to wait.
    """

    machine: Machine
    key: PoolKey
    generation: int
    since: datetime

    @property
    def sandbox_id(self) -> SandboxId:
        """Of the sandbox that it becomes."""
        return self.machine.sandbox_id


@dataclass(kw_only=True)
class _Shelf:
    template: Template
    key: PoolKey
    demand: Demand
    teams: set[TeamId] = field(default_factory=set)
    waiting: deque[Waiting] = field(default_factory=deque)
    making: int = 0
    hits: int = 0
    misses: int = 0
    machine_bytes: int
    problem: str | None = None
    again_at: datetime | None = None


class Pool:
    """Keeps machines waiting, and hands them out."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        checkpoints: Checkpoints,
        templates: Templates,
        warming: Warming,
        configuring: Configuring,
        killing: Killing,
        admission: Admission,
        clock: Clock,
        limits: ControlLimits,
        pool: PoolLimits,
        free_memory: Callable[[], int],
    ) -> None:
        """
        Args:
            pool: how many, and at what price.
            free_memory: bytes that the host has available now.
            The rest: as everywhere in control.
        """
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._templates = templates
        self._warming = warming
        self._configuring = configuring
        self._killing = killing
        self._admission = admission
        self._clock = clock
        self._limits = limits
        self._pool = pool
        self._free_memory = free_memory
        self._shelves: dict[PoolKey, _Shelf] = {}
        # Of today's builds of the templates that are kept ready.
        self._kept: set[PoolKey] = set()
        # Being made: they are machines already, and nobody's.
        self._making: set[SandboxId] = set()
        self._changed = asyncio.Event()
        # All addresses were taken, and others want them.
        self._addresses_again_at: datetime | None = None

    @property
    def enabled(self) -> bool:
        """Whether there is a pool at all."""
        return self._pool.memory_bytes > 0

    @property
    def claim_timeout(self) -> timedelta:
        """How long a machine may take to become a sandbox."""
        return self._pool.claim_timeout

    @property
    def ids(self) -> frozenset[SandboxId]:
        """Of machines that are no sandboxes yet."""
        waiting = (one.sandbox_id for shelf in self._shelves.values() for one in shelf.waiting)
        return frozenset(waiting) | self._making | self._warming.underway

    def start(self, tasks: Tasks) -> None:
        """Begin to keep machines waiting."""
        if not self.enabled:
            return
        tasks.run("look after the pool", self._look_after)
        for number in range(max(self._pool.refills_at_once, 1)):
            tasks.run(f"refill the pool {number}", self._refill)

    def take(self, template: Template, limits: Limits, team_id: TeamId) -> Waiting | None:
        """Hand out a machine of this kind, and remember who asked for one; None: none waits."""
        if not self.enabled or limits.disk_bytes != template.limits.disk_bytes:
            return None
        shelf = self._shelf(template, limits, team_id)
        shelf.teams.add(team_id)
        shelf.demand.asked(self._clock.now())
        self._changed.set()
        if not shelf.waiting:
            shelf.misses += 1
            return None
        shelf.hits += 1
        return shelf.waiting.popleft()

    def put_back(self, waiting: Waiting) -> None:
        """Take a machine back that was handed out and not told anything."""
        shelf = self._shelves.get(waiting.key)
        if shelf is None:
            self._killing.remove_later(waiting.sandbox_id)
            return
        shelf.hits -= 1
        shelf.waiting.appendleft(waiting)

    async def give_up_address(self) -> bool:
        """
        End a machine that waits, since all addresses are taken and somebody wants one.

        False: none waits, or it does not go. Then no other is ended: what keeps it (an edge that does not
        answer, say) would keep all of them, each for as long.

        No other is made for a while (``again``), or it would have the address that is free now.
        """
        self._addresses_again_at = self._clock.now() + self._pool.again
        shelf = max(self._shelves.values(), key=_count, default=None)
        if shelf is None or not shelf.waiting:
            return False
        sandbox_id = shelf.waiting.popleft().sandbox_id
        log.info("pool shrinks: the addresses are used up", template=shelf.template.id)
        self._killing.remove(sandbox_id)
        try:
            await self._killing.removed(sandbox_id)
        except UnavailableError:
            # It is tried again behind this.
            return False
        return True

    def lost(self, sandbox_id: SandboxId) -> None:
        """Hand out a machine no more, since it ended; whoever says so removes it."""
        for shelf in self._shelves.values():
            shelf.waiting = deque(one for one in shelf.waiting if one.sandbox_id != sandbox_id)
        self._changed.set()

    def statuses(self, actor: Actor) -> list[PoolStatus]:
        """
        Say how it is, by name of the template.

        Raises:
            PermissionDeniedError: not with this key: what all teams ask for is the operator's to know.
        """
        check_sees(actor)
        wanted = self._sizes()
        found = [
            PoolStatus(
                key=shelf.key,
                template=shelf.template.name,
                ids=tuple(one.sandbox_id for one in shelf.waiting),
                wanted=wanted[shelf.key],
                hits=shelf.hits,
                misses=shelf.misses,
                oldest=min((one.since for one in shelf.waiting), default=None),
                machine_bytes=shelf.machine_bytes,
                problem=shelf.problem,
            )
            for shelf in self._shelves.values()
        ]
        return sorted(found, key=lambda status: (status.template, status.key.limits.memory_bytes))

    def _shelf(self, template: Template, limits: Limits, team_id: TeamId | None = None) -> _Shelf:
        key = PoolKey(template_id=template.id, limits=limits)
        if (shelf := self._shelves.get(key)) is not None:
            return shelf
        while len(self._shelves) >= max(self._pool.kinds, 1):
            self._close(self._shelves[first_to_go(self._stocks(), kept=self._kept, team=team_id)])
        demand = Demand(window=self._pool.window, memory=self._pool.remember)
        shelf = _Shelf(template=template, key=key, demand=demand, machine_bytes=self._pool.assumed_bytes)
        self._shelves[key] = shelf
        return shelf

    def _close(self, shelf: _Shelf) -> None:
        del self._shelves[shelf.key]
        self._give_up(shelf.waiting)

    def _give_up(self, many: Iterable[Waiting]) -> None:
        for one in many:
            self._killing.remove_later(one.sandbox_id)

    def _stocks(self) -> dict[PoolKey, Stock]:
        now = self._clock.now()
        return {
            key: Stock(
                burst=shelf.demand.burst(now),
                last_asked=shelf.demand.last_asked,
                machine_bytes=shelf.machine_bytes,
                teams=frozenset(shelf.teams),
            )
            for key, shelf in self._shelves.items()
        }

    def _sizes(self) -> dict[PoolKey, int]:
        limits = self._pool
        return sizes(self._stocks(), least=limits.least, most=limits.most, budget_bytes=limits.memory_bytes)

    def _is_short(self) -> bool:
        return self._free_memory() < self._pool.least_free_bytes

    def _neediest(self) -> _Shelf | None:
        now = self._clock.now()
        if self._addresses_again_at is not None and now < self._addresses_again_at:
            return None
        wanted, stocks = self._sizes(), self._stocks()
        needy = [
            shelf
            for shelf in self._shelves.values()
            if len(shelf.waiting) + shelf.making < max(wanted[shelf.key], self._unwarmed(shelf))
            and (shelf.again_at is None or shelf.again_at <= now)
        ]
        if not needy or self._is_short():
            return None
        # What has least of what it wants; of those, what was asked for last.
        return min(
            needy,
            key=lambda one: (
                (len(one.waiting) + one.making) / max(wanted[one.key], 1),
                -stocks[one.key].asked,
            ),
        )

    def _unwarmed(self, shelf: _Shelf) -> int:
        """Count what is to be made of a template for its checkpoint's sake alone."""
        return 0 if self._warming.is_warm(shelf.template) else 1

    async def _refill(self) -> None:
        while True:
            while self._neediest() is None:
                self._changed.clear()
                await self._changed.wait()
            async with self._admission.spare():
                shelf = self._neediest()
                if shelf is None:
                    continue
                shelf.making += 1
                try:
                    await self._make(shelf)
                    shelf.problem = shelf.again_at = None
                # Whatever it was: creates go on without the pool.
                except Exception as error:
                    log.warning(
                        "pool not refilled",
                        template=shelf.template.id,
                        error=str(error) or type(error).__name__,
                        exc_info=not isinstance(error, AtollError),
                    )
                    shelf.problem = str(error) or type(error).__name__
                    shelf.again_at = self._clock.now() + self._pool.again
                finally:
                    shelf.making -= 1

    async def _make(self, shelf: _Shelf) -> None:
        template, limits = shelf.template, shelf.key.limits
        await self._warming.ensure(template)
        if len(shelf.waiting) >= self._sizes().get(shelf.key, 0):
            return
        sandbox_id = new_sandbox_id()
        self._making.add(sandbox_id)
        try:
            machine = await self._restore(template, sandbox_id, limits)
            generation = GENERATION + 1
            await self._configuring.introduce(machine, template, limits, generation)
            usage = await self._runtime.usage(sandbox_id)
        except BaseException as error:
            self._killing.remove_later(sandbox_id)
            if isinstance(error, FailedPreconditionError | NotFoundError):
                # Of another runsc, damaged, or gone.
                await self._warming.forget(template)
            raise
        finally:
            self._making.discard(sandbox_id)
        if self._shelves.get(shelf.key) is not shelf:
            self._killing.remove_later(sandbox_id)
            return
        shelf.machine_bytes = max(usage.memory_bytes, 1)
        since = self._clock.now()
        shelf.waiting.append(Waiting(machine=machine, key=shelf.key, generation=generation, since=since))

    async def _restore(self, template: Template, sandbox_id: SandboxId, limits: Limits) -> Machine:
        path = self._checkpoints.path(self._warming.origin(template))
        restored = self._runtime.restore(machine_spec(template, sandbox_id, limits), path)
        return await within(self._limits.resume_timeout, "come back", restored)

    async def _look_after(self) -> None:
        """Follow what only time changes: demand that is forgotten, memory that runs short, failures."""
        while True:
            try:
                await self._keep_templates()
            except AtollError as error:
                log.warning("templates of the pool not looked at", error=str(error))
            self._shrink()
            self._changed.set()
            await self._clock.sleep_until(
                self._clock.now() + max(self._pool.look_every, timedelta(seconds=0.1))
            )

    async def _keep_templates(self) -> None:
        kept = set()
        for name in self._pool.kept:
            try:
                template = await self._templates.get(name)
            except NotFoundError:
                # Not built yet, perhaps.
                continue
            kept.add(self._shelf(template, template.limits).key)
        self._kept = kept

    def _shrink(self) -> None:
        now = self._clock.now()
        for shelf in list(self._shelves.values()):
            asked = shelf.demand.last_asked
            if shelf.key not in self._kept and (asked is None or now - asked > self._pool.remember):
                self._close(shelf)
        for key, size in self._sizes().items():
            waiting = self._shelves[key].waiting
            while len(waiting) > size:
                self._give_up([waiting.popleft()])
        if (
            self._is_short()
            and (most := max(self._shelves.values(), key=_held, default=None))
            and most.waiting
        ):
            log.info("pool shrinks: the host's memory is short", template=most.template.id)
            self._give_up([most.waiting.popleft()])


def check_sees(actor: Actor) -> None:
    """
    Check that an actor may see the pool.

    Raises:
        PermissionDeniedError: not with this key.
    """
    if actor.kind is not KeyKind.HOME:
        raise PermissionDeniedError(
            "The pool is shown with the home's own key", resolution="'atoll env' prints it."
        )


def _count(shelf: _Shelf) -> int:
    return len(shelf.waiting)


def _held(shelf: _Shelf) -> int:
    return len(shelf.waiting) * shelf.machine_bytes
