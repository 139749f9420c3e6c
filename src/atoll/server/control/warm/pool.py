"""
The pool: machines that were restored from a warm template and wait, so that a create only claims one.

A waiting machine has the id, host name and address that its sandbox will have, and no row; what a create may
choose else, it is told when it is claimed. A server that dies leaves machines without a row, which the next
one removes. Here is who has what, and what is wanted; ``refilling.py`` makes the machines.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from atoll.server.control.machines.killing import Killing
from atoll.server.control.requests import Actor
from atoll.server.control.warm.shelf import Shelf, Waiting
from atoll.server.control.warm.warming import Warming
from atoll.server.domain.errors import PermissionDeniedError, UnavailableError
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.keys import KeyKind
from atoll.server.domain.limits import Limits
from atoll.server.domain.pool import Demand, PoolKey, PoolStatus, Stock, first_to_go, sizes
from atoll.server.domain.template import Template
from atoll.server.ports.clock import Clock

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
        remember: how long a burst is remembered, and whose it was. Then the pool shrinks, and a template that
            nobody asked for since has no pool any more.
        kinds: pairs of template and size that can have a pool; beyond it goes one of the team that asked for
            most of them, that which fewest others lose, and was not asked for longest.
        assumed_bytes: what a machine takes before the first of its kind was looked at.
        refills_at_once: machines that are made at once when nothing else goes on.
        calm: how long nothing else goes on before one is made: the create that took a machine is still being
            answered, and the next of a burst may be on its way.
        quiet: the same, while at least half of what is wanted of each kind waits, and more than the last one:
            a restore takes 200 ms of a processor, in which a create takes twice as long, and clients often
            create one by one. A create that finds none takes as long as the restore.
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
    quiet: timedelta = timedelta(milliseconds=250)
    look_every: timedelta = timedelta(seconds=5)
    again: timedelta = timedelta(seconds=30)
    claim_timeout: timedelta = timedelta(seconds=2)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names in ``templates``."""
        return tuple(name.strip() for name in self.templates.split(",") if name.strip())


class Pool:
    """Holds machines that wait, and hands them out."""

    def __init__(
        self,
        *,
        warming: Warming,
        killing: Killing,
        clock: Clock,
        pool: PoolLimits,
        free_memory: Callable[[], int],
    ) -> None:
        """
        Args:
            pool: how many, and at what price.
            free_memory: bytes that the host has available now.
            The rest: as everywhere in control.
        """
        self._warming = warming
        self._killing = killing
        self._clock = clock
        self._pool = pool
        self._free_memory = free_memory
        self._shelves: dict[PoolKey, Shelf] = {}
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

    def take(self, template: Template, limits: Limits, team_id: TeamId) -> Waiting | None:
        """Hand out a machine of this kind, and remember who asked for one; None: none waits."""
        if not self.enabled or limits.disk_bytes != template.limits.disk_bytes:
            return None
        shelf = self._shelf(template, limits, team_id)
        shelf.demand.asked(self._clock.now(), team_id)
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

    async def wait_until_needy(self) -> None:
        """Return when a machine is wanted, and may be made."""
        while self.neediest() is None:
            self._changed.clear()
            await self._changed.wait()

    def look_again(self) -> None:
        """Have who waits until a machine is wanted look whether one is."""
        self._changed.set()

    def neediest(self) -> Shelf | None:
        """Choose what the next machine is to be made for; None: none is to be made now."""
        now = self._clock.now()
        if self._addresses_again_at is not None and now < self._addresses_again_at:
            return None
        wanted, stocks = self._sizes(), self._stocks()
        needy = [
            shelf
            for shelf in self._shelves.values()
            if len(shelf.waiting) + shelf.making < max(wanted[shelf.key], self._unwarmed(shelf))
            and _is_tried(shelf, now)
            # Who makes one would wait there, and make none of the others.
            and not self._warming.must_wait(shelf.template)
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

    def rest(self) -> timedelta:
        """Say how long nothing else is to go on before a machine is made."""
        wanted, now = self._sizes(), self._clock.now()
        low = any(
            _is_low(len(shelf.waiting), wanted[key]) and _is_tried(shelf, now)
            for key, shelf in self._shelves.items()
        )
        return self._pool.calm if low else self._pool.quiet

    def lacks(self, shelf: Shelf) -> bool:
        """Say whether more machines are to wait here than do."""
        return len(shelf.waiting) < self._sizes().get(shelf.key, 0)

    @contextmanager
    def making(self, sandbox_id: SandboxId) -> Iterator[None]:
        """Count a machine that is being made among those that are no sandboxes yet."""
        self._making.add(sandbox_id)
        try:
            yield
        finally:
            self._making.discard(sandbox_id)

    def add(self, shelf: Shelf, waiting: Waiting, machine_bytes: int) -> None:
        """Have a machine wait that was made; where its shelf went meanwhile, it goes too."""
        if self._shelves.get(shelf.key) is not shelf:
            self._killing.remove_later(waiting.sandbox_id)
            return
        shelf.machine_bytes = max(machine_bytes, 1)
        shelf.waiting.append(waiting)

    def open(self, template: Template) -> PoolKey:
        """Have a shelf for a template as it is, whether or not anybody asked for it."""
        return self._shelf(template, template.limits).key

    def keep(self, keys: Collection[PoolKey]) -> None:
        """Keep these before anybody asks, and no others."""
        self._kept = set(keys)

    def shrink(self) -> None:
        """Follow what only time changes: give up what is not wanted any more, or what memory is short for."""
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

    def _shelf(self, template: Template, limits: Limits, team_id: TeamId | None = None) -> Shelf:
        key = PoolKey(template_id=template.id, limits=limits)
        if (shelf := self._shelves.get(key)) is not None:
            return shelf
        while len(self._shelves) >= max(self._pool.kinds, 1):
            self._close(self._shelves[first_to_go(self._stocks(), kept=self._kept, team=team_id)])
        demand = Demand(window=self._pool.window, memory=self._pool.remember)
        shelf = Shelf(template=template, key=key, demand=demand, machine_bytes=self._pool.assumed_bytes)
        self._shelves[key] = shelf
        return shelf

    def _close(self, shelf: Shelf) -> None:
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
                teams=shelf.demand.teams(now),
            )
            for key, shelf in self._shelves.items()
        }

    def _sizes(self) -> dict[PoolKey, int]:
        limits = self._pool
        return sizes(self._stocks(), least=limits.least, most=limits.most, budget_bytes=limits.memory_bytes)

    def _is_short(self) -> bool:
        return self._free_memory() < self._pool.least_free_bytes

    def _unwarmed(self, shelf: Shelf) -> int:
        """Count what is to be made of a template for its checkpoint's sake alone."""
        return 0 if self._warming.is_warm(shelf.template) else 1


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


def _is_tried(shelf: Shelf, now: datetime) -> bool:
    return shelf.again_at is None or shelf.again_at <= now


def _is_low(waiting: int, wanted: int) -> bool:
    # Of few, half is the last one: a restore that begins when it goes is too late for the create after.
    return 2 * waiting < wanted or waiting < min(wanted, 2)


def _count(shelf: Shelf) -> int:
    return len(shelf.waiting)


def _held(shelf: Shelf) -> int:
    return len(shelf.waiting) * shelf.machine_bytes
