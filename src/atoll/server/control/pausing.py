"""
Pauses sandboxes, and resumes them.

A pause: row (pausing, with the checkpoint's name), machine written down and ended, route forgotten, row
(paused). A resume: row (resuming, of the next generation), machine restored, configured, row (running),
checkpoint removed. What fails on the way goes back to where it was; what a killed server left, the next one
settles by what is there: the machine, or a complete checkpoint. Checkpoints that no row names are removed.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import timedelta

import structlog

from atoll.server.control import checking
from atoll.server.control.admission import Admission
from atoll.server.control.changing import change
from atoll.server.control.configuring import Configuring, spec_of, within
from atoll.server.control.creating import AWAKE
from atoll.server.control.deadlines import Deadlines
from atoll.server.control.killing import End, Killing
from atoll.server.control.limits import ControlLimits
from atoll.server.control.locks import Locks
from atoll.server.control.reading import Reading, not_there
from atoll.server.control.requests import Actor
from atoll.server.control.tasks import Job, Tasks
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    AtollError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import (
    SLEEPING,
    EndReason,
    OnDeadline,
    Pause,
    Sandbox,
    Status,
    Target,
)
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import SandboxFilter, Store
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)

_LIVING = SLEEPING | {Status.RUNNING}


class Pausing:
    """The verbs pause, resume and connect, and what is done without a caller."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        edge: Edge,
        checkpoints: Checkpoints,
        templates: Templates,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        tasks: Tasks,
        admission: Admission,
        configuring: Configuring,
        killing: Killing,
        deadlines: Deadlines,
        reading: Reading,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._edge = edge
        self._checkpoints = checkpoints
        self._templates = templates
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._tasks = tasks
        self._admission = admission
        self._configuring = configuring
        self._killing = killing
        self._deadlines = deadlines
        self._reading = reading
        self._jobs: dict[SandboxId, Job[Sandbox]] = {}

    async def pause(self, actor: Actor, untrusted_id: str, kind: CheckpointKind) -> Sandbox:
        """
        Write a running sandbox down and end its machine; return when all of it is on the disk.

        It goes on if the caller goes away.

        Args:
            actor: who asks.
            untrusted_id: whose.
            kind: what to keep; without its memory, a resume boots.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such sandbox.
            FailedPreconditionError: it does not run.
            ResourceExhaustedError, UnavailableError, DeadlineExceededError: it runs on, and why.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        row = await self._reading.get(actor, sandbox_id, statuses=_LIVING)
        if row.status is not Status.RUNNING:
            raise FailedPreconditionError(f"Sandbox {sandbox_id} is {row.status}, not running")
        return await (await self._begin_pause(sandbox_id, kind)).wait()

    async def expire(self, row: Sandbox) -> None:
        """Begin to pause a sandbox whose deadline has passed."""
        kind = CheckpointKind.FILES if row.on_deadline is OnDeadline.PAUSE_FILES else CheckpointKind.MEMORY
        try:
            await self._begin_pause(row.id, kind, if_still=self._is_due)
        except FailedPreconditionError:
            # Its deadline was moved, or it ended, right now.
            return

    async def connect(
        self, actor: Actor, untrusted_id: str, from_now: timedelta, *, memory: bool = True
    ) -> tuple[Sandbox, bool]:
        """
        Let a running sandbox live at least so long from now, or resume a paused one for so long.

        Args:
            actor: who asks.
            untrusted_id: whose.
            from_now: how long.
            memory: false: boot it, though its memory was kept.

        Returns:
            The sandbox, and whether it was resumed.

        Raises:
            InvalidArgumentError: not positive, longer than the longest, or the id has another form.
            NotFoundError: no such sandbox.
            UnimplementedError: that is to be forgotten, and was kept.
            FailedPreconditionError: its checkpoint is damaged, or belongs to something that is not here.
            ResourceExhaustedError, UnavailableError, DeadlineExceededError: it stays paused, and why.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        checking.check_timeout(from_now, self._limits)
        row = await self._reading.get(actor, sandbox_id, statuses=_LIVING)
        if not memory and row.pause is not None and row.pause.kind is CheckpointKind.MEMORY:
            raise UnimplementedError("booting a sandbox that was paused with its memory is not available")
        if row.status is Status.RUNNING:
            check = self._reading.check(actor, frozenset({Status.RUNNING}))
            return await self._deadlines.refresh(sandbox_id, from_now, check), False
        return await self._resume(sandbox_id, from_now), True

    async def wake(self, sandbox_id: SandboxId) -> None:
        """
        Resume a sandbox that traffic arrives for, if it wants that; else do nothing.

        Raises:
            AtollError: it stays paused, and why.
        """
        try:
            row = await self._store.get_sandbox(sandbox_id)
        except NotFoundError:
            return
        if row.auto_resume and row.status in SLEEPING:
            await self._resume(sandbox_id, max(row.timeout, self._limits.wake_timeout))

    def stop(self, sandbox_id: SandboxId) -> None:
        """Stop what is under way with a sandbox, since it is killed."""
        if job := self._jobs.get(sandbox_id):
            job.cancel()

    async def stop_all(self) -> None:
        """Have what is under way go back to where it was, before all is ended."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait([job.outcome for job in jobs])

    async def take_up(self, row: Sandbox, machine: Machine | None) -> Sandbox:
        """Settle what an earlier server left; returns the row as it is then."""
        if row.status is Status.PAUSING:
            with contextlib.suppress(NotFoundError):
                await self._settle(row, is_there=machine is not None)
        elif row.status is Status.RESUMING:
            await self._put_back(row)
        elif row.pause is None or row.pause.checkpoint not in await self._checkpoints.names():
            end = End(reason=EndReason.LOST, detail="its checkpoint was not there when the server started")
            await self._killing.begin(row.id, end)
        return await self._store.get_sandbox(row.id)

    async def sweep(self, rows: Iterable[Sandbox]) -> None:
        """Remove the checkpoints that no row names, before anything is written."""
        named = frozenset(row.pause.checkpoint for row in rows if row.pause is not None)
        try:
            await self._checkpoints.keep_only(named)
        except UnavailableError as error:
            log.warning("old checkpoints not removed", error=str(error))

    async def _begin_pause(
        self,
        sandbox_id: SandboxId,
        kind: CheckpointKind,
        if_still: Callable[[Sandbox], bool] = lambda _: True,
    ) -> Job[Sandbox]:
        now = self._clock.now()

        def pausing(row: Sandbox) -> Sandbox:
            if row.status is not Status.RUNNING or not if_still(row):
                raise FailedPreconditionError(f"Sandbox {sandbox_id} is {row.status}, not running")
            pause = Pause(checkpoint=f"{row.id}-{row.generation}", kind=kind, at=now)
            return replace(row, target=Target.PAUSED, status=Status.PAUSING, pause=pause)

        row = await change(self._store, sandbox_id, pausing)
        return self._job(row, lambda: self._pause(row))

    def _job(self, row: Sandbox, work: Callable[[], Awaitable[Sandbox]]) -> Job[Sandbox]:
        async def run() -> Sandbox:
            return await work()

        job = self._tasks.job(f"{row.status} {row.id}", run)
        self._jobs[row.id] = job

        def over(_: object) -> None:
            if self._jobs.get(row.id) is job:
                del self._jobs[row.id]

        job.outcome.add_done_callback(over)
        return job

    async def _pause(self, row: Sandbox) -> Sandbox:
        assert row.pause is not None
        async with self._locks.hold(row.id):
            await self._still(row)
            try:
                written = self._runtime.checkpoint(
                    row.id,
                    self._checkpoints.path(row.pause.checkpoint),
                    kind=row.pause.kind,
                    leave_running=False,
                )
                await within(self._limits.pause_timeout, "stand still on the disk", written)
            except BaseException as error:
                log.warning("sandbox not paused", sandbox_id=row.id, error=str(error) or type(error).__name__)
                seen = await self._runtime.observe()
                ended = {one.sandbox_id: End(reason=one.reason, detail=one.detail) for one in seen.ended}
                is_there = row.id in {one.sandbox_id for one in seen.machines}
                await self._settle(row, is_there=is_there, ended=ended.get(row.id))
                raise
            paused = await self._settle(row, is_there=False)
        # Not where the server stops at this very moment.
        with contextlib.suppress(UnavailableError):
            self._tasks.job(f"seal {row.id}", lambda: self._seal(row.id, row.pause))
        return paused

    async def _seal(self, sandbox_id: SandboxId, pause: Pause | None) -> None:
        """Compute checksums of what is large, which nobody waits for."""
        assert pause is not None
        try:
            await self._runtime.seal(self._checkpoints.path(pause.checkpoint))
        except (FailedPreconditionError, NotFoundError):
            # Resumed or killed meanwhile, for the most part; a damaged one is refused when it is resumed.
            log.info("checkpoint not sealed", sandbox_id=sandbox_id)
        except AtollError as error:
            log.warning("checkpoint not sealed", sandbox_id=sandbox_id, error=str(error))

    async def _settle(self, row: Sandbox, *, is_there: bool, ended: End | None = None) -> Sandbox:
        """Bring a pause to its end, by what there is: the machine, or the checkpoint, or neither."""
        assert row.pause is not None
        if is_there:
            await self._checkpoints.remove(row.pause.checkpoint)
            soonest = self._clock.now() + self._limits.pause_again

            def running(row: Sandbox) -> Sandbox:
                if row.status is not Status.PAUSING:
                    return row
                deadline = max(row.deadline, soonest)
                return replace(
                    row, target=Target.RUNNING, status=Status.RUNNING, pause=None, deadline=deadline
                )

            back = await change(self._store, row.id, running)
            self._deadlines.appeared(back.deadline)
            return back
        if row.pause.checkpoint not in await self._checkpoints.names():
            lost = End(reason=EndReason.LOST, detail="it ended while it was written down")
            await self._killing.begin(row.id, ended or lost)
            raise not_there(row.id)
        # A server may have died while it removed the machine.
        await self._abandon(row.id)
        await self._forget_route(row.id)

        def paused(row: Sandbox) -> Sandbox:
            return replace(row, status=Status.PAUSED, address=None) if row.status is Status.PAUSING else row

        found = await change(self._store, row.id, paused)
        log.info("sandbox paused", sandbox_id=row.id, kind=row.pause.kind)
        return found

    async def _forget_route(self, sandbox_id: SandboxId) -> None:
        try:
            async with asyncio.timeout(self._limits.forget_timeout.total_seconds()):
                await self._edge.forget(sandbox_id)
        except (AtollError, TimeoutError) as error:
            # Nobody else gets its address: connections there fail, and the edge asks again.
            log.warning("route of a paused sandbox not forgotten", sandbox_id=sandbox_id, error=str(error))

    async def _resume(self, sandbox_id: SandboxId, lifetime: timedelta) -> Sandbox:
        """Resume, once nothing else is under way; those who want it at the same time share the work."""
        while (job := self._jobs.get(sandbox_id)) is not None:
            await asyncio.wait([job.outcome])
            row = await self._store.get_sandbox(sandbox_id)
            if row.status is Status.RUNNING:
                return await self._deadlines.refresh(sandbox_id, lifetime, lambda _: None)
        alive = await self._store.count_sandboxes(SandboxFilter(statuses=AWAKE))
        if alive >= self._limits.max_sandboxes:
            raise ResourceExhaustedError(
                f"The most sandboxes run that this server may have ({self._limits.max_sandboxes})",
                resolution="Pause or kill some, or raise max_sandboxes in the server's settings.",
            )

        def resuming(row: Sandbox) -> Sandbox:
            if row.status not in (Status.PAUSED, Status.RESUMING):
                raise not_there(sandbox_id)
            generation = row.generation + 1
            return replace(row, target=Target.RUNNING, status=Status.RESUMING, generation=generation)

        row = await change(self._store, sandbox_id, resuming)
        if (job := self._jobs.get(sandbox_id)) is None:
            job = self._job(row, lambda: self._bring_back(row, lifetime))
        return await job.wait()

    async def _bring_back(self, row: Sandbox, lifetime: timedelta) -> Sandbox:
        assert row.pause is not None
        try:
            async with self._admission.turn(row.team_id), self._locks.hold(row.id):
                running = await self._restore(row, row.pause, lifetime)
        except BaseException as error:
            log.warning("sandbox not resumed", sandbox_id=row.id, error=str(error) or type(error).__name__)
            await self._put_back(row)
            raise
        try:
            await self._checkpoints.remove(row.pause.checkpoint)
        except UnavailableError as error:
            # The next start removes it.
            log.warning("checkpoint not removed", sandbox_id=row.id, error=str(error))
        log.info("sandbox resumed", sandbox_id=row.id, kind=row.pause.kind, generation=row.generation)
        return running

    async def _restore(self, row: Sandbox, pause: Pause, lifetime: timedelta) -> Sandbox:
        await self._still(row)
        template = await self._templates.get(row.template_id)
        path = self._checkpoints.path(pause.checkpoint)
        restored = self._runtime.restore(spec_of(row), path)
        machine = await within(self._limits.resume_timeout, "come back", restored)
        booted = pause.kind is CheckpointKind.FILES
        await self._configuring.configure(row, machine, template, booted=booted)
        deadline = self._clock.now() + lifetime

        def running(now: Sandbox) -> Sandbox:
            if now.status is not Status.RESUMING:
                raise not_there(row.id)
            return replace(now, status=Status.RUNNING, address=machine.address, deadline=deadline, pause=None)

        found = await change(self._store, row.id, running)
        self._deadlines.appeared(found.deadline)
        return found

    async def _put_back(self, row: Sandbox) -> None:
        """Undo half a resume."""
        async with self._locks.hold(row.id):
            now = await self._store.get_sandbox(row.id)
            if now.status is not Status.RESUMING:
                # It runs, or is being removed.
                return
            await self._abandon(row.id)

            def paused(row: Sandbox) -> Sandbox:
                if row.status is not Status.RESUMING:
                    return row
                return replace(row, target=Target.PAUSED, status=Status.PAUSED)

            await change(self._store, row.id, paused)

    async def _abandon(self, sandbox_id: SandboxId) -> None:
        try:
            await self._runtime.abandon(sandbox_id)
        except UnavailableError as error:
            # A resume that finds it in its way fails, and tries this again.
            log.warning("remains of a paused sandbox not removed", sandbox_id=sandbox_id, error=str(error))

    async def _still(self, row: Sandbox) -> None:
        """
        Check that nobody ended it while this waited.

        Raises:
            NotFoundError: somebody did.
        """
        if (await self._store.get_sandbox(row.id)).status is not row.status:
            raise not_there(row.id)

    def _is_due(self, row: Sandbox) -> bool:
        return row.deadline <= self._clock.now()
