"""
Gives each sandbox a slot of its own, out of a few that are ready.

A slot's number is its address's place in the home's range; numbers go round through the range, so that an
address rests as long as possible before it serves again. What a number is at any time:

    free → making → ready → held → free        (and from anywhere to free, by removal)

Only "held" is on disk, in ``Records``. What a killed server left in the kernel without a record, ready or
half made, is removed at the next start.
"""

import asyncio
import contextlib
import math
from collections import deque
from functools import partial
from pathlib import Path

import structlog
from typing_extensions import override

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    AtollError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.host import netns
from atoll.server.host.netlink import Netlink
from atoll.server.host.nftables import Nftables
from atoll.server.network import making, ranges, uplink
from atoll.server.network.fence import Fence
from atoll.server.network.host_watch import HostWatch
from atoll.server.network.kernel_errors import translated
from atoll.server.network.making import SlotMaker, SlotShape
from atoll.server.network.names import GATEWAY, AddressRange, Names
from atoll.server.network.records import Record, Records
from atoll.server.network.removing import MOST_AT_ONCE, SlotRemover
from atoll.server.network.ruleset import MOST_CONNECTIONS, Rules
from atoll.server.network.workers import Worker
from atoll.server.ports.slots import Slot, Slots

log = structlog.get_logger(__name__)

# A fork of ten finds them made, where the processors were idle before. A ready slot costs the kernel some
# 100 KB.
READY = 12
# A start takes 150 ms and two per core run at once: with so many ready, a burst finds one nearly always,
# since one is made in 5 ms. The others are made when none was taken for a while: who takes many needs the
# processors.
_PROMPTLY = 4
_CALM_S = 0.25
# The first pause after the kernel refused to make a slot, and the longest.
_AGAIN_S, _AGAIN_MOST_S = 0.5, 30.0
# After the host's network changed, more changes follow; they are looked at together.
_SETTLE_S = 0.5


class SlotPool(Slots):
    """The slots of one home. Open and close it in one task; in between any task may call."""

    def __init__(
        self,
        home_id: str,
        addresses: AddressRange,
        *,
        slots_dir: Path,
        run_dir: Path,
        dns_port: int,
        egress_port: int,
        ready: int = READY,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        """
        Args:
            home_id: 6 hexadecimal digits.
            addresses: the home's, claimed.
            slots_dir: of the home, for the records.
            run_dir: shared by all homes of this machine.
            dns_port: where the edge's name server listens, on 169.254.1.1, UDP and TCP.
            egress_port: where the edge takes connections that go by domains, there too, TCP.
            ready: how many slots to keep ready.
            most_connections: of one sandbox at once.
        """
        self._names = Names(home_id)
        self._addresses = addresses
        self._records = Records(slots_dir)
        self._run_dir = run_dir
        self._dns_port = dns_port
        self._egress_port = egress_port
        self._ready_wanted = min(ready, addresses.size)
        self._most_connections = most_connections
        self._held: dict[SandboxId, Record] = {}
        self._ready: deque[int] = deque()
        # Numbers that are not free: all that is held, ready, being made or being removed.
        self._used: set[int] = set()
        self._next = 1
        self._taken = asyncio.Event()
        self._taken_at = -math.inf
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """
        Put the fence up, find the slots that are held, remove the others, and begin to make new ones.

        Raises:
            UnavailableError: the kernel refused something.
        """
        # Two threads, since removing takes long: it must not keep a sandbox from its slot.
        self._making, self._removing = Worker("atoll-slots"), Worker("atoll-slots-gone")
        with translated("load the packet filter's library"):
            self._nftables = Nftables()
        await self._making.run(self._recover)
        self._remover = SlotRemover(self._maker, self._removing)
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._tasks = [
            self._group.create_task(self._keep_ready(), name="slots: keep ready"),
            self._group.create_task(self._follow_host(), name="slots: follow the host's network"),
        ]

    async def close(self) -> None:
        """Stop making slots. Those that are held go on, fenced; those that are ready are removed."""
        group, self._group = self._group, None
        if group is None:
            return
        for task in self._tasks:
            task.cancel()
        await group.__aexit__(None, None, None)
        self._ready.clear()
        # Also what a cancelled task has just begun to make.
        await self._making.run(self._remove_unheld)
        for worker in (self._making, self._removing):
            await worker.run(self._maker.close_thread)
            worker.close()
        self._nftables.close()

    @override
    async def acquire(self, sandbox_id: SandboxId, egress: EgressPolicy) -> Slot:
        record = self._held.get(sandbox_id)
        if record is None:
            number, is_ready = self._take()
            # Held from here on, whatever happens: ``release`` removes also half of a slot.
            record = self._held[sandbox_id] = Record(number=number, egress=egress)
        else:
            record = self._held[sandbox_id] = Record(number=record.number, egress=egress)
            is_ready = await self._making.run(self._has_addresses, record.number)
        await self._making.run(self._hold, sandbox_id, record, is_ready)
        return self._slot(record.number)

    @override
    async def update(self, sandbox_id: SandboxId, egress: EgressPolicy) -> None:
        record = self._held.get(sandbox_id)
        if record is None:
            raise NotFoundError("No such slot", details=f"sandbox {sandbox_id} holds none")
        if record.egress == egress:
            return
        # Known here once the kernel has it: after a failure the same call does it again.
        record = Record(number=record.number, egress=egress)
        await self._making.run(self._admit, sandbox_id, record)
        self._held[sandbox_id] = record

    @override
    async def hush(self, sandbox_id: SandboxId, silent: bool) -> None:
        if record := self._held.get(sandbox_id):
            await self._making.run(partial(self._fence.hush, record.number, silent=silent))

    @override
    async def find(self, sandbox_id: SandboxId) -> Slot | None:
        record = self._held.get(sandbox_id)
        return self._slot(record.number) if record else None

    @override
    async def release(self, sandbox_id: SandboxId) -> None:
        record = self._held.get(sandbox_id)
        if record is None:
            return
        # Behind an ``acquire`` whose caller went away: that still runs there.
        await self._making.run(self._close, record.number)
        await self._remover.remove(record.number)
        self._records.remove(sandbox_id)
        if self._held.get(sandbox_id) is record:
            del self._held[sandbox_id]
            self._used.discard(record.number)

    @override
    async def held(self) -> frozenset[SandboxId]:
        return frozenset(self._held)

    def _recover(self) -> None:
        making.prepare(self._run_dir)
        with translated("look at the host's network"):
            host = uplink.read_now()
        shape = SlotShape(names=self._names, addresses=self._addresses, mtu=host.mtu, ipv6=host.ipv6)
        self._maker = SlotMaker(shape)
        rules = Rules(
            names=self._names,
            addresses=self._addresses,
            dns_port=self._dns_port,
            egress_port=self._egress_port,
            ipv6=host.ipv6,
            on_link=host.on_link,
            most_connections=self._most_connections,
        )
        self._fence = Fence(rules, self._nftables)
        self._held = self._own_records()
        self._used = {record.number for record in self._held.values()}
        self._next = self._records.next_number()
        self._fence.put_up({record.number: record.egress for record in self._held.values()})
        self._remove_unheld()

    def _remove_unheld(self) -> None:
        unheld = sorted(self._maker.numbers() - {record.number for record in self._held.values()})
        for first in range(0, len(unheld), MOST_AT_ONCE):
            self._maker.remove_all(unheld[first : first + MOST_AT_ONCE])

    def _own_records(self) -> dict[SandboxId, Record]:
        found: dict[SandboxId, Record] = {}
        for sandbox_id, record in self._records.read().items():
            if 1 <= record.number <= self._addresses.size:
                found[sandbox_id] = record
            else:
                # The home has another range now, which it only gets when nothing runs in it.
                log.warning("a slot's record is outside of the range", number=record.number)
                self._records.remove(sandbox_id)
        return found

    def _hold(self, sandbox_id: SandboxId, record: Record, is_ready: bool) -> None:
        if not is_ready:
            # What an interrupted call may have left of it.
            self._maker.remove(record.number)
            self._make(record.number)
        self._admit(sandbox_id, record)

    def _has_addresses(self, number: int) -> bool:
        """Give a slot that was used the addresses back that a sandbox took; false when it cannot be used."""
        if not netns.path(self._names.namespace(number)).exists():
            return False
        try:
            self._maker.address_again(number)
        except UnavailableError as error:
            log.info("a slot is made anew", number=number, error=str(error))
            return False
        return True

    def _close(self, number: int) -> None:
        self._fence.dismiss(number)
        self._fence.hush(number, silent=False)

    def _admit(self, sandbox_id: SandboxId, record: Record) -> None:
        self._fence.admit(record.number, record.egress)
        with translated("write down who holds a slot"):
            self._records.write(sandbox_id, record)

    def _slot(self, number: int) -> Slot:
        name = self._names.namespace(number)
        return Slot(
            name=name,
            netns=str(netns.path(name)),
            address=str(self._addresses.address(number)),
            dns_servers=(str(GATEWAY),),
        )

    def _take(self) -> tuple[int, bool]:
        """Return a number, and whether its slot is made."""
        self._taken.set()
        self._taken_at = asyncio.get_running_loop().time()
        if self._ready:
            return self._ready.popleft(), True
        return self._reserve(), False

    def _reserve(self) -> int:
        size = self._addresses.size
        for step in range(size):
            number = (self._next - 1 + step) % size + 1
            if number not in self._used:
                self._used.add(number)
                self._next = number % size + 1
                return number
        raise ResourceExhaustedError(
            "The address range for sandboxes is used up",
            details=f"{self._addresses.v4} has {size} addresses, and {len(self._held)} are held",
            resolution="end sandboxes, or give the home a wider range",
            reason=Reason.ADDRESSES_USED_UP,
        )

    async def _keep_ready(self) -> None:
        pause = _AGAIN_S
        while True:
            self._taken.clear()
            try:
                while len(self._ready) < self._ready_wanted:
                    await self._until_calm()
                    await self._make_one()
                pause = _AGAIN_S
                await self._taken.wait()
            except ResourceExhaustedError:
                # Every number is in use; one becomes free by ``release``, and the next ``acquire`` looks.
                await self._taken.wait()
            except AtollError as error:
                log.warning("no slot can be made now", error=str(error), again_in_s=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _AGAIN_MOST_S)

    async def _until_calm(self) -> None:
        """Return when the next one may be made: at once when few are ready, else when none was just taken."""
        loop = asyncio.get_running_loop()
        while len(self._ready) >= _PROMPTLY and (rest := self._taken_at + _CALM_S - loop.time()) > 0:
            self._taken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._taken.wait()

    async def _make_one(self) -> None:
        number = self._reserve()
        try:
            await self._making.run(self._make, number)
        except AtollError:
            # Never in the way of the next: a number that cannot be removed stays used.
            await self._remover.remove(number)
            self._used.discard(number)
            raise
        self._ready.append(number)

    def _make(self, number: int) -> None:
        self._maker.make(number)
        with translated("write down the next slot's number"):
            self._records.set_next_number(self._next)

    async def _follow_host(self) -> None:
        """Put the fence up again when the host got other neighbours, or somebody flushed its rules."""
        with HostWatch(self._names.table) as watch:
            while True:
                await watch.changed()
                await asyncio.sleep(_SETTLE_S)
                watch.forget()
                try:
                    await self._making.run(self._check_fence)
                except AtollError as error:
                    log.warning("the fence could not be looked after", error=str(error))

    def _check_fence(self) -> None:
        # Under the lock: a range that is claimed now is still claimed when the fence stands.
        with translated("look at the host's network"), ranges.locked(self._run_dir), Netlink() as netlink:
            if not ranges.is_claimed(self._names.home_id, netlink):
                # The home is being taken down: what is removed now is to stay removed.
                return
            host = uplink.read(netlink)
            if host.on_link != self._fence.on_link:
                log.info("the host's links changed", on_link=[str(network) for network in host.on_link])
                self._fence.put_up_again(host.on_link)
            elif not self._fence.stands():
                log.warning("somebody removed the fence; it is put up again", table=self._names.table)
                self._fence.put_up_again()
