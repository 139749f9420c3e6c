"""
Finds an address for a machine where all are taken.

Machines that wait in the pool are ended for it first. Then a sandbox that has been paused for so long that
nobody outside remembers its connections gives its address up, and gets another one when it is resumed. The
edge forgets its route first, or it would lead those who call it to whoever has the address then.
"""

from collections.abc import Awaitable, Callable

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.turns.locks import Locks
from atoll.server.control.warm.pool import Pool
from atoll.server.control.work.waiting import within
from atoll.server.domain.errors import AtollError, Reason, ResourceExhaustedError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Addresses:
    """Takes addresses from those who can do without."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        edge: Edge,
        pool: Pool,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._edge = edge
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

    async def give_up(self, sandbox_id: SandboxId) -> None:
        """Remove what is left of a paused one, and its address with it; what would not go is logged."""
        if await self._forgotten(sandbox_id):
            await self._given_up(sandbox_id)

    async def _free_one(self) -> bool:
        return await self._pool.give_up_address() or await self._take_from_paused()

    async def _take_from_paused(self) -> bool:
        holders = set(await self._runtime.remains())
        longest = await self._store.paused_before(self._clock.now() - self._limits.paused_keeps_address)
        for sandbox_id in longest:
            # Who asks holds a turn, which whatever is under way with that one may be waiting for.
            if sandbox_id not in holders or self._locks.held(sandbox_id):
                continue
            async with self._locks.hold(sandbox_id):
                # It may have been resumed, or asked by somebody else, since it was listed.
                if not self._can_spare(await self._store.get_sandbox(sandbox_id)):
                    continue
                if sandbox_id not in await self._runtime.remains():
                    continue
                if not await self._forgotten(sandbox_id):
                    # Nor would it forget another one.
                    return False
                if await self._given_up(sandbox_id):
                    return True
        return False

    async def _forgotten(self, sandbox_id: SandboxId) -> bool:
        try:
            await within(self._limits.forget_timeout, "be forgotten", self._edge.forget(sandbox_id))
        except AtollError as error:
            log.warning("no address is taken: the edge does not forget", error=str(error))
            return False
        return True

    async def _given_up(self, sandbox_id: SandboxId) -> bool:
        try:
            await within(
                self._limits.destroy_timeout, "give its address up", self._runtime.destroy(sandbox_id)
            )
        except AtollError as error:
            # Another one may.
            log.warning("a paused sandbox keeps its address", sandbox_id=sandbox_id, error=str(error))
            return False
        log.info("a paused sandbox gave its address up", sandbox_id=sandbox_id)
        return True

    def _can_spare(self, row: Sandbox) -> bool:
        # What fell is about to come back; of its snapshot is said when that was taken.
        if row.status is not Status.PAUSED or row.pause is None or row.is_falling:
            return False
        return row.pause.at + self._limits.paused_keeps_address <= self._clock.now()
