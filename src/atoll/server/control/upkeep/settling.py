"""
Brings pauses and resumes to their end where a machine, or the server, ended first.

By what there is: a machine that runs, or a checkpoint that is complete, or neither. What a killed server left
half done is settled at the next start, and checkpoints that no row names are removed.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import timedelta

import structlog

from atoll.server.control.lifecycle.checkpointing import Checkpointing, abandon, is_whole
from atoll.server.control.lifecycle.restoring import Restoring
from atoll.server.control.machines.killing import End, Killing
from atoll.server.control.rows.unfinished import unfinished
from atoll.server.control.work.underway import Underway
from atoll.server.domain.errors import (
    AtollError,
    NotFoundError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Settling:
    """Settles what is neither running nor paused."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        checkpoints: Checkpoints,
        killing: Killing,
        underway: Underway,
        checkpointing: Checkpointing,
        restoring: Restoring,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._killing = killing
        self._underway = underway
        self._checkpointing = checkpointing
        self._restoring = restoring

    async def sweep(self, rows: Iterable[Sandbox], others: frozenset[str]) -> None:
        """Remove the checkpoints that neither a row nor anybody else names, before anything is written."""
        named = others | {row.pause.checkpoint for row in rows if row.pause is not None}
        try:
            await self._checkpoints.keep_only(named)
        except UnavailableError as error:
            log.warning("old checkpoints not removed", error=str(error))

    async def take_up(self, row: Sandbox, machine: Machine | None) -> Sandbox:
        """Settle what an earlier server left; returns the row as it is then."""
        if row.status is Status.PAUSED and machine is not None:
            # It went back to sleep, and its machine would not go.
            await abandon(self._runtime, row.id)
        if row.status is Status.PAUSING:
            with contextlib.suppress(NotFoundError):
                await self._checkpointing.settle(row, is_there=machine is not None)
        elif row.status is Status.RESUMING:
            await self._restoring.put_back(row)
        elif row.is_falling and row.pause is None:
            # Nothing was kept of it; it begins anew.
            pass
        elif row.pause is None or row.pause.checkpoint not in await self._checkpoints.names():
            end = End(reason=EndReason.LOST, detail="its checkpoint was not there when the server started")
            await self._killing.begin(row.id, end)
        return await self._store.get_sandbox(row.id)

    async def machine_ended(self, sandbox_id: SandboxId, error: AtollError) -> bool:
        """
        Let what is under way with a sandbox come to its end, since its machine ended by itself.

        A resume goes back, and who waits for it gets the error; a pause may have been written down before.

        Returns:
            Whether nothing of it is lost: it is on the disk, or runs in another machine already.

        Raises:
            NotFoundError: there is no such row.
        """
        if (job := self._underway.get(sandbox_id)) is not None:
            if (await self._store.get_sandbox(sandbox_id)).status is Status.RESUMING:
                job.cancel(error)
            await asyncio.wait([job.outcome])
        row = await self._store.get_sandbox(sandbox_id)
        # Resuming: somebody has begun anew, with another machine.
        if row.status in (Status.PAUSED, Status.RESUMING) or await self.is_whole(row):
            return True
        living = {machine.sandbox_id for machine in (await self._runtime.observe()).machines}
        return row.status is Status.RUNNING and sandbox_id in living

    async def is_whole(self, row: Sandbox) -> bool:
        """Tell whether all of one that is pausing is on the disk, and only its row does not say so yet."""
        return await is_whole(self._checkpoints, row)

    async def end_whole(self, row: Sandbox) -> bool:
        """End the machine of such a one, which the next start finds paused; False: it is none."""
        if not await self.is_whole(row):
            return False
        await abandon(self._runtime, row.id)
        return True

    async def stop_all(self, within: timedelta | None = None) -> None:
        """
        Have what is under way go back to where it was, or stay paused where it is written down already.

        For when no more is to begin. What cannot be settled stays as it is, for the next start.

        Args:
            within: how long that may take; None: as long as it takes.
        """
        try:
            async with asyncio.timeout(None if within is None else within.total_seconds()):
                if jobs := self._underway.stop_all():
                    await asyncio.wait([job.outcome for job in jobs])
                for row in await unfinished(self._store):
                    if row.status is Status.PAUSING:
                        await self._settle_stopped(row.id)
        except TimeoutError:
            log.warning("not all that was under way is settled")

    async def _settle_stopped(self, sandbox_id: SandboxId) -> None:
        try:
            await self._checkpointing.settle_stopped(sandbox_id)
        except NotFoundError:
            # Its machine had ended.
            return
        except AtollError as error:
            log.warning("pause not settled", sandbox_id=sandbox_id, error=str(error))
