"""
Writes persistent sandboxes down before their machines go, for the next start to resume.

Two rounds: with their memory, and those for which that failed without it, since files are what nobody may
lose. What is not written down then runs on, and its name and the reason are returned.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import structlog

from atoll.server.control.killing import End
from atoll.server.control.pausing import Pausing
from atoll.server.control.reviving import Reviving
from atoll.server.control.unfinished import unfinished
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import AtollError, DeadlineExceededError, NotFoundError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

ROUNDS = (CheckpointKind.MEMORY, CheckpointKind.FILES)
_UP = frozenset({Status.RUNNING, Status.PAUSING})

Left = Mapping[SandboxId, AtollError]


class Parking:
    """Parks what is persistent."""

    def __init__(self, *, store: Store, pausing: Pausing, reviving: Reviving) -> None:
        self._store = store
        self._pausing = pausing
        self._reviving = reviving

    async def park_all(self, within: timedelta | None = None) -> Left:
        """
        Write down what is persistent and runs; nothing else may be under way with it.

        Args:
            within: how long that may take; each round has its part. None: as long as it takes.

        Returns:
            Those that run on, and why.
        """
        left: Left = {}
        for kind in ROUNDS:
            left = await self._round(kind, within / len(ROUNDS) if within is not None else None)
            if not left:
                break
        return left

    async def give_up(self, left: Left) -> None:
        """Have those that could not be written down come back as they do when their host fell."""
        for sandbox_id, error in left.items():
            try:
                end = End(reason=EndReason.LOST, detail=str(error))
                if await self._reviving.lay_down(sandbox_id, end):
                    await self._reviving.clear(sandbox_id)
            except AtollError as problem:
                # Then it ends with all others.
                log.warning("persistent sandbox given up", sandbox_id=sandbox_id, error=str(problem))

    async def _round(self, kind: CheckpointKind, within: timedelta | None) -> Left:
        errors: dict[SandboxId, AtollError] = {}
        try:
            async with asyncio.timeout(None if within is None else within.total_seconds()):
                async with asyncio.TaskGroup() as group:
                    for row in await self._running():
                        group.create_task(self._park(row.id, kind, errors))
        except TimeoutError:
            # A job goes on when nobody waits for it.
            await self._pausing.stop_all()
        late = DeadlineExceededError("It was not written down in time")
        return {row.id: errors.get(row.id, late) for row in await self._running()}

    async def _running(self) -> list[Sandbox]:
        rows = await unfinished(self._store)
        return [row for row in rows if row.upkeep.persistent and row.status in _UP]

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
            errors[sandbox_id] = error
