"""
Writes persistent sandboxes down before their machines go, for the next start to resume.

Two rounds: with their memory, and those for which that failed without it, since files are what nobody may
lose. After each, what was stopped on its way is settled by what there is: it runs on, or is kept. What runs
on after both is returned, with the reason. What is whole on the disk is kept also where its row cannot be
written: the next start sees that.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from atoll.server.control.lifecycle.pausing import Pausing
from atoll.server.control.machines.killing import End
from atoll.server.control.rows.unfinished import unfinished
from atoll.server.control.upkeep.reviving import Reviving
from atoll.server.control.upkeep.settling import Settling
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import AtollError, DeadlineExceededError, NotFoundError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

ROUNDS = (CheckpointKind.MEMORY, CheckpointKind.FILES)
# After a round: a few looks at the machines, and a row for each. Both together leave some of the minute that
# the systemd unit has beyond ``park_timeout``.
_SETTLING = timedelta(seconds=10)

Errors = Mapping[SandboxId, AtollError]


@dataclass(frozen=True, kw_only=True)
class Parked:
    """
    What became of the persistent sandboxes that were to be written down.

    Attributes:
        kept: those that the next start resumes, and what of them.
        left: those that run on, and why.
    """

    kept: Mapping[SandboxId, CheckpointKind]
    left: Errors


class Parking:
    """Parks what is persistent."""

    def __init__(self, *, store: Store, pausing: Pausing, settling: Settling, reviving: Reviving) -> None:
        self._store = store
        self._pausing = pausing
        self._settling = settling
        self._reviving = reviving

    async def park_all(self, within: timedelta | None = None) -> Parked:
        """
        Write down what is persistent and runs; nothing else may be under way with it.

        Args:
            within: how long that may take; each round has its part. None: as long as it takes.
        """
        errors: dict[SandboxId, AtollError] = {}
        for kind in ROUNDS:
            await self._round(kind, within / len(ROUNDS) if within is not None else None, errors)
            parked = await self._parked(errors)
            if not parked.left:
                break
        return parked

    async def give_up(self, left: Errors) -> None:
        """Have those that could not be written down come back as they do when their host fell."""
        for sandbox_id, error in left.items():
            try:
                end = End(reason=EndReason.LOST, detail=str(error))
                if await self._reviving.lay_down(sandbox_id, end):
                    await self._reviving.clear(sandbox_id)
            except AtollError as problem:
                # Then it ends with all others.
                log.warning("persistent sandbox given up", sandbox_id=sandbox_id, error=str(problem))

    async def _round(
        self, kind: CheckpointKind, within: timedelta | None, errors: dict[SandboxId, AtollError]
    ) -> None:
        try:
            async with asyncio.timeout(None if within is None else within.total_seconds()):
                async with asyncio.TaskGroup() as group:
                    for row in await self._persistent():
                        if row.status is Status.RUNNING:
                            group.create_task(self._park(row.id, kind, errors))
        except TimeoutError:
            log.warning("persistent sandboxes not written down in time", kind=kind)
        # A job goes on when nobody waits for it: one that took too long, or that settles what failed.
        await self._settling.stop_all(None if within is None else _SETTLING)

    async def _parked(self, errors: Errors) -> Parked:
        kept: dict[SandboxId, CheckpointKind] = {}
        left: dict[SandboxId, AtollError] = {}
        late = DeadlineExceededError("It was not written down in time")
        for row in await self._persistent():
            if row.status is Status.RUNNING or (
                row.status is Status.PAUSING and not await self._settling.is_whole(row)
            ):
                left[row.id] = errors.get(row.id, late)
            elif row.fall is not None and row.is_falling and row.fall.is_parked and row.pause is not None:
                kept[row.id] = row.pause.kind
        return Parked(kept=kept, left=left)

    async def _persistent(self) -> list[Sandbox]:
        return [row for row in await unfinished(self._store) if row.upkeep.persistent]

    async def _park(
        self, sandbox_id: SandboxId, kind: CheckpointKind, errors: dict[SandboxId, AtollError]
    ) -> None:
        try:
            await self._pausing.park(sandbox_id, kind)
        except NotFoundError:
            # It ended by itself, and comes back as one that fell.
            return
        except AtollError as error:
            log.warning(
                "persistent sandbox not written down", sandbox_id=sandbox_id, kind=kind, error=str(error)
            )
            # Why its files could not be written either is mostly the same, or follows from it.
            errors.setdefault(sandbox_id, error)
