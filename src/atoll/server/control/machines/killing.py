"""
Ends sandboxes: the one way out, whoever asked and whatever state they are in.

Row first (status killing, with the reason), then the edge forgets the route, then the runtime
destroys, then the row is final. Each step may be repeated; what fails is tried again until it goes,
by this server or the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.rows.changing import change
from atoll.server.control.turns.locks import Locks
from atoll.server.control.work.retrying import rest
from atoll.server.control.work.tasks import Job, Tasks, retrieve
from atoll.server.domain.errors import AtollError, NotFoundError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import FALLS, FINAL, WANTED, EndReason, Sandbox, Status, Target
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

# Rows carry so much about an end; the rest is in the log.
MOST_DETAIL = 4000


# What is done with a sandbox that is there for the last time; raises nothing, and takes no long time.
Parting = Callable[[SandboxId], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class End:
    """
    Why a sandbox ends.

    Attributes:
        reason: in a word.
        detail: facts, for operators.
    """

    reason: EndReason
    detail: str | None = None


# Asked before a sandbox whose machine ended is given up.
Revive = Callable[[SandboxId, End], Awaitable[bool]]


@dataclass(kw_only=True)
class _Removal:
    job: Job[None]
    # Fails when the first attempts have failed; the job goes on.
    verdict: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Killing:
    """Removes sandboxes from the machine and closes their rows."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        edge: Edge,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        tasks: Tasks,
        checkpoints: Checkpoints,
        parting: Parting | None = None,
    ) -> None:
        self._parting = parting
        # Given by whoever can: has a sandbox come back instead, and says whether it does.
        self.revive: Revive | None = None
        self._checkpoints = checkpoints
        self._store = store
        self._runtime = runtime
        self._edge = edge
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._tasks = tasks
        self._at_once = asyncio.Semaphore(limits.concurrent_destroys)
        self._removals: dict[SandboxId, _Removal] = {}

    async def begin(
        self, sandbox_id: SandboxId, end: End, *, if_still: Callable[[Sandbox], bool] = lambda _: True
    ) -> bool:
        """
        Write that a sandbox ends, and begin to remove it; return whether it is being removed now.

        False for one that ended before, for a row that ``if_still`` refuses, and for one that comes back.
        The first reason stays: ending what is ending changes nothing but its target.

        Raises:
            NotFoundError: there is no such row.
            AtollError: the row cannot be written; nothing was begun.
        """

        def ending(row: Sandbox) -> Sandbox:
            if row.status in FINAL or not if_still(row):
                return row
            if end.reason in FALLS and row.status is Status.PAUSED and row.is_falling:
                # Told twice, by a start and a pause, say: it comes back already.
                return row
            target = Target.KILLED if end.reason in WANTED else row.target
            if row.status is Status.KILLING:
                return replace(row, target=target)
            detail = end.detail[:MOST_DETAIL] if end.detail else None
            return replace(
                row, target=target, status=Status.KILLING, end_reason=end.reason, end_detail=detail
            )

        if end.reason in FALLS and self.revive is not None and await self.revive(sandbox_id, end):
            return False
        row = await change(self._store, sandbox_id, ending)
        if row.status is not Status.KILLING:
            return False
        self.remove(sandbox_id)
        return True

    async def insist(self, sandbox_id: SandboxId, end: End) -> None:
        """Do what ``begin`` does, again and again until the row is written; without one, just remove."""
        while True:
            try:
                await self.begin(sandbox_id, end)
            except NotFoundError:
                self.remove(sandbox_id)
            except AtollError as error:
                log.warning("end not recorded", sandbox_id=sandbox_id, error=str(error))
                await rest(self._clock)
                continue
            return

    def remove(self, sandbox_id: SandboxId) -> None:
        """Begin to remove what there is of a sandbox whose row is killing, or which has none."""
        if sandbox_id not in self._removals:
            # The job finds its own entry: a task takes no step before this one yields.
            job = self._tasks.job(f"remove {sandbox_id}", lambda: self._remove(sandbox_id))
            removal = _Removal(job=job)
            removal.verdict.add_done_callback(retrieve)
            self._removals[sandbox_id] = removal

    def remove_later(self, sandbox_id: SandboxId) -> None:
        """Begin to remove a machine without a row, if it still can be begun; else the next server does it."""
        with suppress(UnavailableError):
            self.remove(sandbox_id)

    async def removed(self, sandbox_id: SandboxId) -> None:
        """
        Return when the removal that was begun is done; being cancelled does not stop it.

        Raises:
            UnavailableError: the first attempts failed; more follow.
        """
        removal = self._removals.get(sandbox_id)
        if removal is not None:
            await asyncio.wait([removal.verdict, removal.job.outcome], return_when=asyncio.FIRST_COMPLETED)
            if removal.verdict.done():
                removal.verdict.result()
            else:
                await removal.job.wait()

    async def _remove(self, sandbox_id: SandboxId) -> None:
        try:
            delay = self._limits.destroy_retry_delay
            attempt = 1
            while not await self._attempt(sandbox_id, attempt):
                await self._clock.sleep_until(self._clock.now() + delay)
                delay = min(2 * delay, self._limits.destroy_retry_delay_most)
                attempt += 1
            self._settle(sandbox_id, None)
        finally:
            del self._removals[sandbox_id]

    async def _attempt(self, sandbox_id: SandboxId, attempt: int) -> bool:
        try:
            async with self._locks.hold(sandbox_id), self._at_once:
                # Once: later, something of it may be gone, and its address be another's.
                if attempt == 1 and self._parting is not None:
                    await self._parting(sandbox_id)
                # First the route: destroying gives the address back, and it may go to another
                # sandbox, which must not get this one's connections.
                async with asyncio.timeout(_seconds(self._limits.forget_timeout)):
                    await self._edge.forget(sandbox_id)
                async with asyncio.timeout(_seconds(self._limits.destroy_timeout)):
                    await self._runtime.destroy(sandbox_id)
                    await self._checkpoints.remove_all(sandbox_id)
            await self._close_row(sandbox_id)
        # Whatever it was: a sandbox that nobody wants is not left alone because of a surprise.
        except Exception as error:
            log.warning(
                "sandbox not removed",
                sandbox_id=sandbox_id,
                attempt=attempt,
                error=str(error) or type(error).__name__,
                exc_info=not isinstance(error, AtollError | TimeoutError),
            )
            if attempt >= self._limits.destroy_attempts:
                self._settle(sandbox_id, error)
            return False
        return True

    async def _close_row(self, sandbox_id: SandboxId) -> None:
        def final(row: Sandbox) -> Sandbox:
            if row.status in FINAL:
                return row
            status = Status.KILLED if row.end_reason in WANTED else Status.FAILED
            # What was secret about its network served it alone.
            egress = row.egress.fenced()
            return replace(
                row, status=status, ended_at=self._clock.now(), address=None, egress=egress, pause=None
            )

        try:
            row = await change(self._store, sandbox_id, final)
        except NotFoundError:
            log.info("orphan removed", sandbox_id=sandbox_id)
        else:
            log.info("sandbox ended", sandbox_id=sandbox_id, reason=row.end_reason, detail=row.end_detail)

    def _settle(self, sandbox_id: SandboxId, error: Exception | None) -> None:
        verdict = self._removals[sandbox_id].verdict
        if verdict.done():
            return
        if error is None:
            verdict.set_result(None)
            return
        failure = UnavailableError(
            f"Sandbox {sandbox_id} is not gone yet",
            details=str(error) or type(error).__name__,
            resolution="The server keeps trying; see its log.",
        )
        failure.__cause__ = error
        verdict.set_exception(failure)


def _seconds(time: timedelta) -> float:
    return time.total_seconds()
