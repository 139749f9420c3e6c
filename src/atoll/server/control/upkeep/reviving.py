"""
Brings sandboxes back whose machine ended without being asked: from the last snapshot, or from the template.

Row (paused, with a checkpoint of its own that the snapshot shares), what is left of the machine removed, then
a resume like any other, tried a few times. What does not come back stays paused and can be resumed; the next
start tries it again. Disk and memory are those of the snapshot: what was done since is lost with the machine.
What was written down before its machine went comes back from that alone: with its memory, or else its files.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_exponential,
)

from atoll.server.control.lifecycle.checkpointing import is_whole
from atoll.server.control.lifecycle.restoring import Restoring
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.killing import End
from atoll.server.control.rows.changing import change
from atoll.server.control.rows.unfinished import unfinished
from atoll.server.control.turns.locks import Locks
from atoll.server.control.work.tasks import Job, Tasks
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    AtollError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Pause, Sandbox, Status, Target
from atoll.server.domain.snapshot import Snapshot, SnapshotId
from atoll.server.domain.upkeep import Fall, Restart
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.snapshots import SnapshotQuery, SnapshotStore
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

# Snapshots that are tried, the newest first: one that is damaged, or fits no longer, is passed over.
_MOST_ORIGINS = 10
# Far beyond every longest delay, and still a number.
_MOST_DOUBLINGS = 500
# When its machine may end: while it runs, and while it is written down to be paused.
_UP = frozenset({Status.RUNNING, Status.PAUSING})


class Reviving:
    """Has fallen sandboxes come back."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        edge: Edge,
        checkpoints: Checkpoints,
        snapshots: SnapshotStore,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        tasks: Tasks,
        restoring: Restoring,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._edge = edge
        self._checkpoints = checkpoints
        self._snapshots = snapshots
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._tasks = tasks
        self._restoring = restoring
        # A start and a pause may tell of the same fall at once.
        self._laying = Locks()
        self._jobs: set[Job[None]] = set()
        self._stopped = False

    async def begin(self, sandbox_id: SandboxId, end: End) -> bool:
        """
        Have a sandbox come back whose machine ended, if it is to; False: it is not, and nothing was begun.

        Raises:
            NotFoundError: there is no such row.
            AtollError: the row cannot be written; nothing was begun.
        """
        if not await self.lay_down(sandbox_id, end):
            return False
        self.resume(sandbox_id)
        return True

    async def lay_down(self, sandbox_id: SandboxId, end: End) -> bool:
        """Write that a sandbox is to come back, from what, and that it is paused until then; as ``begin``."""
        async with self._laying.hold(sandbox_id):
            row = await self._store.get_sandbox(sandbox_id)
            if not self._comes_back(row, end.reason):
                return False
            name = _second_name(row)
            # Until the row names it.
            self._checkpoints.pin(name)
            try:
                return await self._lay_down(row, end)
            finally:
                self._checkpoints.unpin(name)

    async def _lay_down(self, row: Sandbox, end: End) -> bool:
        sandbox_id = row.id
        origin: SnapshotId | None = None
        if await is_whole(self._checkpoints, row):
            # Nothing of it is lost: it had just been written down.
            pause = row.pause
        else:
            pause, origin = await self._linked(row, await self._origins(row))
        if pause is None and not row.upkeep.persistent:
            return False
        now = self._clock.now()
        fall = Fall(
            reason=end.reason.value,
            at=now,
            origin=origin,
            times=self._times(row),
        )

        def down(found: Sandbox) -> Sandbox:
            if found.status not in _UP or found.generation != row.generation:
                return found
            return replace(
                found, target=Target.RUNNING, status=Status.PAUSED, address=None, pause=pause, fall=fall
            )

        found = await change(self._store, sandbox_id, down)
        if found.fall != fall:
            return False
        log.warning(
            "sandbox fell", sandbox_id=sandbox_id, reason=end.reason, detail=end.detail, origin=fall.origin
        )
        return True

    def resume(self, sandbox_id: SandboxId) -> None:
        """Begin to bring back what is to come back."""
        if self._stopped:
            return
        job = self._tasks.job(f"revive {sandbox_id}", lambda: self._revive(sandbox_id))
        self._jobs.add(job)
        job.outcome.add_done_callback(lambda _: self._jobs.discard(job))

    def stop_all(self) -> None:
        """Bring back nothing more, because the server stops; the next start does."""
        self._stopped = True
        for job in self._jobs:
            job.cancel()

    async def clear(self, sandbox_id: SandboxId) -> None:
        """
        Remove all that is left of a machine; its address may go to another sandbox afterwards.

        Raises:
            AtollError: something would not go.
        """
        async with self._locks.hold(sandbox_id):
            row = await self._store.get_sandbox(sandbox_id)
            # Who came back meanwhile, and was paused, has connections that its address is kept for.
            if row.status is Status.PAUSED and row.is_falling:
                await self._edge.forget(sandbox_id)
                await self._runtime.destroy(sandbox_id)

    async def clear_all(self) -> None:
        """
        Remove what is left of all who fell, once nothing is to bring them back here any more.

        Raises:
            AtollError: something would not go; what would is gone.
        """
        at_once = asyncio.Semaphore(self._limits.concurrent_destroys)

        async def clear(sandbox_id: SandboxId) -> None:
            async with at_once:
                await self.clear(sandbox_id)

        fallen = [row.id for row in await unfinished(self._store) if row.is_falling]
        ends = await asyncio.gather(*(clear(one) for one in fallen), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    def _comes_back(self, row: Sandbox, reason: EndReason) -> bool:
        if row.status not in _UP or row.deadline <= self._clock.now():
            return False
        if row.upkeep.persistent and reason is EndReason.LOST:
            return True
        wanted = row.upkeep.restart is Restart.FROM_SNAPSHOT
        return wanted and self._times(row) <= self._limits.restarts

    def _times(self, row: Sandbox) -> int:
        """Count falls: one soon after it came back is the same trouble once more."""
        if row.fall is None or row.fall.back_at is None:
            return 1
        lasted = self._clock.now() - row.fall.back_at
        return row.fall.times + 1 if lasted < self._limits.restart_lasts else 1

    async def _origins(self, row: Sandbox) -> Sequence[Snapshot]:
        query = SnapshotQuery(team_id=row.team_id, sandbox_id=row.id, limit=_MOST_ORIGINS)
        return await self._snapshots.list_snapshots(query)

    async def _linked(
        self, row: Sandbox, origins: Sequence[Snapshot]
    ) -> tuple[Pause | None, SnapshotId | None]:
        """Share the first one's checkpoint, so that it stays whatever becomes of the snapshot."""
        name = _second_name(row)
        for origin in origins:
            try:
                await self._checkpoints.link(origin.id, name)
            except NotFoundError:
                # Deleted right now.
                continue
            return Pause(checkpoint=name, kind=origin.kind, at=origin.created_at), origin.id
        return None, None

    async def _revive(self, sandbox_id: SandboxId) -> None:
        row = await self._store.get_sandbox(sandbox_id)
        if row.fall is None:
            return
        if row.fall.times > 1:
            # It fell soon after it had come back: the next time need not be at once.
            doublings = min(row.fall.times - 2, _MOST_DOUBLINGS)
            pause_s = self._limits.restart_delay.total_seconds() * 2.0**doublings
            await self._sleep(min(pause_s, self._limits.restart_delay_most.total_seconds()))
        tries = AsyncRetrying(
            sleep=self._sleep,
            stop=stop_after_attempt(max(self._limits.restart_tries, 1)),
            wait=wait_exponential(
                multiplier=self._limits.restart_delay.total_seconds(),
                max=self._limits.restart_delay_most.total_seconds(),
            ),
            retry=retry_if_exception_type(AtollError)
            & retry_if_not_exception_type((NotFoundError, FailedPreconditionError)),
            before_sleep=_say(sandbox_id),
            reraise=True,
        )
        try:
            await tries(self._try, sandbox_id)
        except (UnavailableError, DeadlineExceededError) as error:
            await self._boot(sandbox_id, error)
        except AtollError as error:
            await self._give_up(sandbox_id, error)

    async def _boot(self, sandbox_id: SandboxId, error: AtollError) -> None:
        """
        Begin what was written down anew, from its files, since with its memory it does not come back.

        Nobody asked its guest then whether it answers. What keeps the machine from coming up keeps it from
        this, too, before anything of its memory is thrown away.
        """
        try:
            row = await self._store.get_sandbox(sandbox_id)
            if not _is_own(row) or row.pause is None or row.pause.kind is not CheckpointKind.MEMORY:
                raise error
            log.warning("sandbox boots from its files", sandbox_id=sandbox_id, error=str(error))
            await self._try(sandbox_id, memory=False)
        except AtollError as problem:
            await self._give_up(sandbox_id, problem)

    async def _try(self, sandbox_id: SandboxId, *, memory: bool = True) -> None:
        # A try that failed may not be in its row yet.
        await self._restoring.idle(sandbox_id)
        row = await self._store.get_sandbox(sandbox_id)
        if not row.is_falling or row.status is not Status.PAUSED:
            # Somebody resumed or killed it.
            return
        await self.clear(sandbox_id)
        lifetime = max(row.deadline - self._clock.now(), timedelta(seconds=1))
        while True:
            try:
                await self._restoring.run(sandbox_id, lifetime, memory=memory)
            except FailedPreconditionError as error:
                log.warning(
                    "snapshot of a fallen sandbox passed over", sandbox_id=sandbox_id, error=str(error)
                )
                if not await self._take_older(sandbox_id):
                    raise
                continue
            return

    async def _take_older(self, sandbox_id: SandboxId) -> bool:
        """Have it come back from the next older snapshot; False: there is none."""
        row = await self._store.get_sandbox(sandbox_id)
        if row.pause is None or row.fall is None or row.status is not Status.PAUSED:
            return False
        if _is_own(row):
            # Nowhere else is what it has.
            return False
        tried = row.pause
        older = [one for one in await self._origins(row) if one.created_at < tried.at]
        pause, origin = await self._linked(row, older)
        if pause is None:
            return False

        def earlier(found: Sandbox) -> Sandbox:
            if found.status is not Status.PAUSED or found.pause != tried or found.fall is None:
                return found
            return replace(found, pause=pause, fall=replace(found.fall, origin=origin))

        found = await change(self._store, sandbox_id, earlier)
        if found.pause != pause:
            return False
        try:
            await self._checkpoints.remove(tried.checkpoint)
        except UnavailableError as error:
            # The next start removes it.
            log.warning("checkpoint not removed", sandbox_id=sandbox_id, error=str(error))
        return True

    async def _give_up(self, sandbox_id: SandboxId, error: AtollError) -> None:
        log.warning("sandbox did not come back", sandbox_id=sandbox_id, error=str(error))

        def stays(row: Sandbox) -> Sandbox:
            if row.fall is None or not row.is_falling or row.status is not Status.PAUSED:
                return row
            return replace(row, fall=replace(row.fall, problem=error.message))

        try:
            await change(self._store, sandbox_id, stays)
        except AtollError as problem:
            log.warning("that is not in its row", sandbox_id=sandbox_id, error=str(problem))
        try:
            # It may rest for weeks, and its connections went with its machine.
            await self.clear(sandbox_id)
        except AtollError as problem:
            log.warning("its address is kept", sandbox_id=sandbox_id, error=str(problem))

    async def _sleep(self, seconds: float) -> None:
        await self._clock.sleep_until(self._clock.now() + timedelta(seconds=seconds))


def _say(sandbox_id: SandboxId) -> Callable[[RetryCallState], None]:
    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        log.warning(
            "sandbox did not come back yet",
            sandbox_id=sandbox_id,
            attempt=state.attempt_number,
            error=str(error),
        )

    return say


def _is_own(row: Sandbox) -> bool:
    """Tell whether it comes back from what a pause kept, and not from a snapshot."""
    return row.pause is not None and row.fall is not None and row.fall.origin is None


def _second_name(row: Sandbox) -> str:
    # Not what a pause is called that may be under way: it would be taken for that.
    return f"{row.id}-{row.generation}-origin"
