"""
Writes sandboxes down: the work behind a pause.

Guest asked whether it answers, where its memory is kept; edge told to ask at the next request; machine
written down and ended, route forgotten, row (paused). What is left of the machine, the runtime removes behind
that. What fails on the way, and what a killed server left, is settled by what is there: the machine runs on,
or a complete checkpoint is kept, or it is lost. Where that fails, too, it is tried until it does not.
"""

import asyncio
from dataclasses import replace

import structlog

from atoll.server.control.lifecycle.deadlines import Deadlines
from atoll.server.control.lifecycle.sealing import Sealing
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.killing import End, Killing
from atoll.server.control.machines.probing import Probing
from atoll.server.control.rows.changing import change
from atoll.server.control.rows.reading import PRESENT, moved_on, not_there
from atoll.server.control.turns.admission import Admission, Urgency
from atoll.server.control.turns.locks import Locks
from atoll.server.control.work.underway import Underway
from atoll.server.control.work.waiting import within
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    AtollError,
    Reason,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Pause, Sandbox, Status, Target
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Checkpointing:
    """From a row that is pausing to one that is paused, or runs again, or is being removed."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        edge: Edge,
        checkpoints: Checkpoints,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        sealing: Sealing,
        underway: Underway,
        admission: Admission,
        killing: Killing,
        deadlines: Deadlines,
        probing: Probing,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._edge = edge
        self._checkpoints = checkpoints
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._sealing = sealing
        self._underway = underway
        self._admission = admission
        self._killing = killing
        self._deadlines = deadlines
        self._probing = probing

    async def run(
        self, row: Sandbox, urgency: Urgency, *, ask: bool = True, healthy: bool = False
    ) -> Sandbox:
        """
        Write down a machine and end it; returns the row, paused.

        Args:
            row: as it was when the pause began.
            urgency: whether a request waits for its end, to wake it again.
            ask: whether the guest is asked first; one that does not answer is written down as that.
            healthy: whether such a one runs on instead.

        Raises:
            NotFoundError: it ended meanwhile.
            UnavailableError: what becomes of it is not known yet; it is settled behind this.
            AtollError: it runs on, and why.
        """
        pause = row.pause
        assert pause is not None
        async with self._locks.hold(row.id):
            await check_unchanged(self._store, row)
            try:
                if healthy or (ask and pause.kind is CheckpointKind.MEMORY):
                    row = await self._asked(row, pause, healthy=healthy)
                async with self._admission.turn(row.team_id, urgency):
                    # Answer and turn took their time.
                    await check_unchanged(self._store, row)
                    # From here on a request waits for the resume that it asks for, or is told of the pause.
                    await self._edge.ask_again(row.id)
                    written = self._runtime.checkpoint(
                        row.id,
                        self._checkpoints.path(pause.checkpoint),
                        kind=pause.kind,
                        leave_running=False,
                    )
                    await within(self._limits.pause_timeout, "stand still on the disk", written)
            except BaseException as error:
                log.warning("sandbox not paused", sandbox_id=row.id, error=str(error) or type(error).__name__)
                await self._underway.settle(row, lambda: self._look(row), lambda: self._look_again(row))
                raise
            return await self._underway.settle(
                row, lambda: self._paused(row, pause), lambda: self._look_again(row)
            )

    async def _asked(self, row: Sandbox, pause: Pause, *, healthy: bool) -> Sandbox:
        """Ask a guest whether it answers; returns the row, which says so where it does not."""
        try:
            await self._probing.ask(row)
        except UnavailableError as error:
            if healthy:
                error.reason = Reason.PAUSE_REFUSED
                raise
            log.warning("paused guest does not answer", sandbox_id=row.id, error=str(error))
        else:
            return row

        def silent(now: Sandbox) -> Sandbox:
            if now.status is not Status.PAUSING:
                raise moved_on(now)
            return replace(now, pause=replace(pause, silent=True))

        return await change(self._store, row.id, silent)

    async def settle(self, row: Sandbox, *, is_there: bool, ended: End | None = None) -> Sandbox:
        """
        Bring a pause to its end, by what there is: the machine, or the checkpoint, or neither.

        Args:
            row: as it was when the pause began.
            is_there: whether its machine runs.
            ended: why it does not, where that is known.

        Raises:
            NotFoundError: neither; it is being removed.
        """
        assert row.pause is not None
        if is_there:
            await self._checkpoints.remove(row.pause.checkpoint)
            now = self._clock.now()

            def running(row: Sandbox) -> Sandbox:
                if row.status is not Status.PAUSING:
                    return row
                # One that has passed would have the next pause begin at once.
                deadline = row.deadline if row.deadline > now else now + self._limits.pause_again
                # It was to come back later, and never left.
                fall = None if row.is_falling else row.fall
                up = replace(row, target=Target.RUNNING, status=Status.RUNNING, pause=None, fall=fall)
                return replace(up, deadline=deadline)

            back = await change(self._store, row.id, running)
            self._deadlines.began(back)
            return back
        if row.pause.checkpoint not in await self._checkpoints.names():
            lost = End(reason=EndReason.LOST, detail="it ended while it was written down")
            await self._killing.begin(row.id, ended or lost)
            raise not_there(row.id)
        # A server may have died before it ended the machine.
        await abandon(self._runtime, row.id)
        return await self._paused(row, row.pause)

    async def _paused(self, row: Sandbox, pause: Pause) -> Sandbox:
        """Say of one that is on the disk, and whose machine has ended, that it is paused."""
        await self._forget_route(row.id)

        def paused(row: Sandbox) -> Sandbox:
            return replace(row, status=Status.PAUSED, address=None) if row.status is Status.PAUSING else row

        found = await change(self._store, row.id, paused)
        if found.status not in PRESENT:
            # Somebody ended it at this very moment: nobody may be told that it is kept.
            raise not_there(row.id)
        if found.status is not Status.PAUSED:
            # The write had failed for us, and had arrived: somebody resumes it already.
            return found
        log.info("sandbox paused", sandbox_id=row.id, kind=pause.kind)
        self._sealing.begin(pause.checkpoint)
        return found

    async def settle_stopped(self, sandbox_id: SandboxId) -> None:
        """
        Settle a pause whose work was stopped on its way; a no-op for what is not pausing.

        Raises:
            NotFoundError: it is being removed.
            AtollError: it is as it was, and why.
        """
        row = await self._store.get_sandbox(sandbox_id)
        if row.status is Status.PAUSING:
            await self._look_again(row)

    async def _look(self, row: Sandbox) -> Sandbox:
        """Settle what a failed pause left, by what the runtime sees now."""
        seen = await self._runtime.observe()
        ended = {one.sandbox_id: End(reason=one.reason, detail=one.detail) for one in seen.ended}
        is_there = row.id in {one.sandbox_id for one in seen.machines}
        return await self.settle(row, is_there=is_there, ended=ended.get(row.id))

    async def _look_again(self, row: Sandbox) -> Sandbox:
        """Do so once more, unless somebody has settled or ended it meanwhile."""
        async with self._locks.hold(row.id):
            now = await self._store.get_sandbox(row.id)
            if now.status is Status.PAUSING:
                return await self._look(row)
            if now.status in PRESENT:
                return now
            raise not_there(row.id)

    async def _forget_route(self, sandbox_id: SandboxId) -> None:
        try:
            async with asyncio.timeout(self._limits.forget_timeout.total_seconds()):
                await self._edge.forget(sandbox_id)
        except (AtollError, TimeoutError) as error:
            # Connections there fail, and the edge asks again. It is told once more before anybody else gets
            # its address (``addresses``).
            log.warning("route of a paused sandbox not forgotten", sandbox_id=sandbox_id, error=str(error))


async def is_whole(checkpoints: Checkpoints, row: Sandbox) -> bool:
    """Tell whether all of one that is pausing is on the disk, and only its row does not say so yet."""
    if row.status is not Status.PAUSING or row.pause is None:
        return False
    return row.pause.checkpoint in await checkpoints.names()


async def abandon(runtime: Runtime, sandbox_id: SandboxId) -> None:
    """Remove what half a pause or half a resume left of a machine; what stays is logged."""
    try:
        await runtime.abandon(sandbox_id)
    except UnavailableError as error:
        # The runtime tries again, and so does a resume that finds it in its way.
        log.warning("remains of a paused sandbox not removed", sandbox_id=sandbox_id, error=str(error))


async def check_unchanged(store: Store, row: Sandbox) -> None:
    """
    Check that nobody ended or changed a sandbox while this waited for its turn.

    Raises:
        NotFoundError: it was ended.
        AbortedError: it is something else now.
    """
    now = await store.get_sandbox(row.id)
    if now.status is not row.status:
        raise moved_on(now)
