"""
Pauses sandboxes, and resumes them: the verbs, and what the server does by itself.

A pause: row (pausing, with the checkpoint's name), then ``checkpointing``. A resume: ``restoring``.
What a killed server left half done is settled at the next start, and checkpoints that no row names are
removed.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

import structlog

from atoll.server.control import checking
from atoll.server.control.admission import Admission, Urgency
from atoll.server.control.changing import change
from atoll.server.control.checkpointing import Checkpointing, abandon, is_whole
from atoll.server.control.configuring import Configuring
from atoll.server.control.deadlines import Deadlines
from atoll.server.control.killing import End, Killing
from atoll.server.control.limits import ControlLimits
from atoll.server.control.locks import Locks
from atoll.server.control.probing import Probing
from atoll.server.control.reading import Reading, not_there
from atoll.server.control.requests import Actor
from atoll.server.control.restoring import Restoring
from atoll.server.control.sealing import Sealing
from atoll.server.control.starting import Starting
from atoll.server.control.tasks import Job, Tasks
from atoll.server.control.underway import Underway
from atoll.server.control.unfinished import unfinished
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    AtollError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
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
from atoll.server.domain.upkeep import PARKED, Fall
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)

_LIVING = SLEEPING | {Status.RUNNING}


class Pausing:
    """The verbs pause, resume and connect, and what is done without a caller."""

    def __init__(
        self,
        *,
        store: Store,
        api_keys: ApiKeys,
        runtime: Runtime,
        edge: Edge,
        checkpoints: Checkpoints,
        templates: Templates,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        tasks: Tasks,
        sealing: Sealing,
        admission: Admission,
        configuring: Configuring,
        killing: Killing,
        deadlines: Deadlines,
        reading: Reading,
        probing: Probing,
        starting: Starting,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._clock = clock
        self._limits = limits
        self._killing = killing
        self._deadlines = deadlines
        self._reading = reading
        self._underway = Underway(tasks, clock=clock, settle_tries=limits.settle_tries)
        self._checkpointing = Checkpointing(
            store=store,
            runtime=runtime,
            edge=edge,
            checkpoints=checkpoints,
            clock=clock,
            limits=limits,
            locks=locks,
            sealing=sealing,
            underway=self._underway,
            admission=admission,
            killing=killing,
            deadlines=deadlines,
            probing=probing,
        )
        self.restoring = Restoring(
            store=store,
            api_keys=api_keys,
            runtime=runtime,
            checkpoints=checkpoints,
            templates=templates,
            clock=clock,
            limits=limits,
            locks=locks,
            tasks=tasks,
            sealing=sealing,
            underway=self._underway,
            admission=admission,
            configuring=configuring,
            deadlines=deadlines,
            starting=starting,
        )

    async def pause(
        self, actor: Actor, untrusted_id: str, kind: CheckpointKind, *, healthy: bool = False
    ) -> Sandbox:
        """
        Write a running sandbox down and end its machine; return when all of it is on the disk.

        It goes on if the caller goes away.

        Args:
            actor: who asks.
            untrusted_id: whose.
            kind: what to keep; without its memory, a resume boots.
            healthy: whether one whose guest does not answer runs on (unavailable).

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such sandbox.
            FailedPreconditionError: it does not run.
            ResourceExhaustedError, UnavailableError, DeadlineExceededError: it runs on, and why; or it is
                neither paused nor running yet (unavailable), and the server sees to that.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        row = await self._reading.get(actor, sandbox_id, statuses=_LIVING)
        if row.status is not Status.RUNNING:
            raise FailedPreconditionError(f"Sandbox {sandbox_id} is {row.status}, not running")
        return await (await self._begin_pause(sandbox_id, kind, healthy=healthy)).wait()

    async def expire(self, row: Sandbox, *, if_still: Callable[[Sandbox], bool] | None = None) -> None:
        """Begin to pause a sandbox whose deadline has passed, or for which ``if_still`` holds."""
        kind = CheckpointKind.FILES if row.on_deadline is OnDeadline.PAUSE_FILES else CheckpointKind.MEMORY
        try:
            await self._begin_pause(row.id, kind, if_still=if_still or self._is_due)
        except FailedPreconditionError:
            # Its deadline was moved, or it ended, right now.
            return

    async def connect(
        self,
        actor: Actor,
        untrusted_id: str,
        from_now: timedelta,
        *,
        memory: bool = True,
        auto_pause: bool = False,
    ) -> tuple[Sandbox, bool]:
        """
        Let a running sandbox live at least so long from now, or resume a paused one for so long.

        Args:
            actor: who asks.
            untrusted_id: whose.
            from_now: how long.
            memory: false: boot it from its files, though its memory was kept, too.
            auto_pause: true: pause it at its deadline from now on, if it was to be killed.

        Returns:
            The sandbox, and whether it was resumed.

        Raises:
            InvalidArgumentError: not positive, longer than the longest, or the id has another form.
            NotFoundError: no such sandbox.
            FailedPreconditionError: its checkpoint is damaged, or belongs to something that is not here.
            ResourceExhaustedError, UnavailableError, DeadlineExceededError: it stays paused, and why.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        checking.check_timeout(from_now, self._limits)
        row = await self._reading.get(actor, sandbox_id, statuses=_LIVING)
        if row.status is Status.RUNNING:
            check = self._reading.check(actor, frozenset({Status.RUNNING}))
            refreshed = await self._deadlines.refresh(sandbox_id, from_now, check, auto_pause=auto_pause)
            return refreshed, False
        resumed = await self.restoring.run(sandbox_id, from_now, memory=memory, auto_pause=auto_pause)
        return resumed, True

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
            await self.restoring.run(sandbox_id, max(row.timeout, self._limits.wake_timeout), urgent=True)

    def stop(self, sandbox_id: SandboxId) -> None:
        """Stop what is under way with a sandbox, since it is killed."""
        self._underway.stop(sandbox_id, not_there(sandbox_id))

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

    async def take_up(self, row: Sandbox, machine: Machine | None) -> Sandbox:
        """Settle what an earlier server left; returns the row as it is then."""
        if row.status is Status.PAUSED and machine is not None:
            # It went back to sleep, and its machine would not go.
            await abandon(self._runtime, row.id)
        if row.status is Status.PAUSING:
            with contextlib.suppress(NotFoundError):
                await self._checkpointing.settle(row, is_there=machine is not None)
        elif row.status is Status.RESUMING:
            await self.restoring.put_back(row)
        elif row.is_falling and row.pause is None:
            # Nothing was kept of it; it begins anew.
            pass
        elif row.pause is None or row.pause.checkpoint not in await self._checkpoints.names():
            end = End(reason=EndReason.LOST, detail="its checkpoint was not there when the server started")
            await self._killing.begin(row.id, end)
        return await self._store.get_sandbox(row.id)

    async def park(self, sandbox_id: SandboxId, kind: CheckpointKind) -> None:
        """
        Write a running sandbox down that the next start is to resume.

        Raises:
            NotFoundError: it ended meanwhile.
            AtollError: it could not be written down, and runs on.
        """
        fall = Fall(reason=PARKED, at=self._clock.now())
        await (await self._begin_pause(sandbox_id, kind, fall=fall)).wait()

    async def sweep(self, rows: Iterable[Sandbox], others: frozenset[str]) -> None:
        """Remove the checkpoints that neither a row nor anybody else names, before anything is written."""
        named = others | {row.pause.checkpoint for row in rows if row.pause is not None}
        try:
            await self._checkpoints.keep_only(named)
        except UnavailableError as error:
            log.warning("old checkpoints not removed", error=str(error))

    async def _begin_pause(
        self,
        sandbox_id: SandboxId,
        kind: CheckpointKind,
        if_still: Callable[[Sandbox], bool] = lambda _: True,
        fall: Fall | None = None,
        healthy: bool = False,
    ) -> Job[Sandbox]:
        now = self._clock.now()

        def pausing(row: Sandbox) -> Sandbox:
            if row.status is not Status.RUNNING or not if_still(row):
                raise FailedPreconditionError(f"Sandbox {sandbox_id} is {row.status}, not running")
            pause = Pause(checkpoint=f"{row.id}-{row.generation}", kind=kind, at=now)
            if fall is not None:
                return replace(row, target=Target.RUNNING, status=Status.PAUSING, pause=pause, fall=fall)
            return replace(row, target=Target.PAUSED, status=Status.PAUSING, pause=pause)

        row = await change(self._store, sandbox_id, pausing)
        # Where the server stops, there is no time to wait for an answer.
        ask = fall is None
        urgency = Urgency()
        return self._underway.begin(
            row, lambda: self._checkpointing.run(row, urgency, ask=ask, healthy=healthy), urgency
        )

    def _is_due(self, row: Sandbox) -> bool:
        return row.deadline <= self._clock.now()
