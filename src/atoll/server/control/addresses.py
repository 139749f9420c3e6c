"""
Finds an address for a machine where all are taken.

Machines that wait in the pool are ended for it first. Then a sandbox that has been paused for so long that
nobody outside remembers its connections gives its address up, and gets another one when it is resumed.
"""

from collections.abc import Awaitable, Callable

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.locks import Locks
from atoll.server.control.pool import Pool
from atoll.server.control.unfinished import unfinished
from atoll.server.domain.errors import Reason, ResourceExhaustedError
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.clock import Clock
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Addresses:
    """Takes addresses from those who can do without."""

    def __init__(
        self, *, store: Store, runtime: Runtime, pool: Pool, clock: Clock, limits: ControlLimits, locks: Locks
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._pool = pool
        self._clock = clock
        self._limits = limits
        self._locks = locks

    async def have(
        self, make: Callable[[], Awaitable[Machine]], clear: Callable[[], Awaitable[None]]
    ) -> Machine:
        """
        Have a machine made, with the address of another one where there is no more.

        Args:
            make: starts or restores it; called for each try.
            clear: removes what a failed try left.

        Raises:
            ResourceExhaustedError: nobody can do without an address (``ADDRESSES_USED_UP``).
            AtollError: whatever else ``make`` raises.
        """
        while True:
            try:
                return await make()
            except ResourceExhaustedError as error:
                if error.reason is not Reason.ADDRESSES_USED_UP or not await self._free_one():
                    raise
            await clear()

    async def _free_one(self) -> bool:
        return await self._pool.give_up_address() or await self._take_from_paused()

    async def _take_from_paused(self) -> bool:
        holders = set(await self._runtime.remains())
        rows = [row for row in await unfinished(self._store) if row.id in holders and self._can_spare(row)]
        for row in sorted(rows, key=_paused_at):
            async with self._locks.hold(row.id):
                # It may have been resumed, or asked by somebody else, while this waited.
                if not self._can_spare(await self._store.get_sandbox(row.id)):
                    continue
                if row.id not in await self._runtime.remains():
                    continue
                await self._runtime.destroy(row.id)
            log.info("a paused sandbox gave its address up", sandbox_id=row.id)
            return True
        return False

    def _can_spare(self, row: Sandbox) -> bool:
        if row.status is not Status.PAUSED or row.pause is None:
            return False
        return row.pause.at + self._limits.paused_keeps_address <= self._clock.now()


def _paused_at(row: Sandbox) -> float:
    assert row.pause is not None
    return row.pause.at.timestamp()
