"""
Brings everything to rest: work, because the machine stops, or each sandbox, because its home is taken down.

What is persistent is written down first (``parking``).
"""

import asyncio

from atoll.server.control.lifecycle.creating import Creating
from atoll.server.control.lifecycle.snapshots import Snapshots
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.killing import End
from atoll.server.control.upkeep.parking import Parked, Parking
from atoll.server.control.upkeep.reconciling import Reconciling
from atoll.server.control.upkeep.reviving import Reviving
from atoll.server.control.upkeep.settling import Settling
from atoll.server.control.work.tasks import Tasks
from atoll.server.domain.errors import FailedPreconditionError, UnavailableError
from atoll.server.domain.sandbox import EndReason
from atoll.server.ports.runtime import Runtime


class Closing:
    """Stops work, and ends sandboxes."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        limits: ControlLimits,
        tasks: Tasks,
        creating: Creating,
        settling: Settling,
        snapshots: Snapshots,
        reviving: Reviving,
        parking: Parking,
        reconciling: Reconciling,
    ) -> None:
        self._runtime = runtime
        self._limits = limits
        self._tasks = tasks
        self._creating = creating
        self._settling = settling
        self._snapshots = snapshots
        self._reviving = reviving
        self._parking = parking
        self._reconciling = reconciling

    async def settled(self) -> None:
        """Do what ``Control.settled`` promises."""
        while jobs := self._tasks.jobs:
            await asyncio.wait([job.outcome for job in jobs])

    async def park(self) -> Parked:
        """Do what ``Control.park`` promises; nothing new may begin any more."""
        await self._stand_still()
        return await self._parking.park_all(self._limits.park_timeout)

    async def kill_all(self, detail: str, *, force: bool) -> None:
        """Do what ``Control.kill_all`` promises; nothing new may begin any more."""
        await self._stand_still()
        left = (await self._parking.park_all()).left
        if left and not force:
            raise FailedPreconditionError(
                f"{len(left)} persistent sandboxes cannot be written down, so no sandbox was ended",
                details="\n".join(f"{sandbox_id}: {error}" for sandbox_id, error in left.items()),
                resolution="`atoll up` goes on with them; `atoll down --force` ends them, and what they have "
                "written since their last snapshot is lost.",
            )
        await self._parking.give_up(left)
        await self._reconciling.end_all(End(reason=EndReason.KILLED, detail=detail))
        try:
            async with asyncio.timeout(self._limits.close_timeout.total_seconds()):
                await self.settled()
                await self._reviving.clear_all()
        except TimeoutError as error:
            remains = await self._runtime.remains()
            raise UnavailableError(
                f"{len(remains)} sandboxes would not go", details=", ".join(remains[:10])
            ) from error

    async def _stand_still(self) -> None:
        self._creating.stop_all()
        self._reviving.stop_all()
        await self._settling.stop_all()
        await self._snapshots.stop_all()
