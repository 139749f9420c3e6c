"""
Brings sandboxes back: the work behind a resume.

Row (resuming, of the next generation), machine restored, configured, row (running), checkpoint removed.
What fails on the way leaves it paused, with its checkpoint.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import structlog

from atoll.server.control.admission import Admission
from atoll.server.control.changing import change
from atoll.server.control.checkpointing import abandon, check_unchanged
from atoll.server.control.configuring import Configuring, spec_of, within
from atoll.server.control.creating import AWAKE
from atoll.server.control.deadlines import Deadlines
from atoll.server.control.limits import ControlLimits
from atoll.server.control.locks import Locks
from atoll.server.control.reading import not_there
from atoll.server.control.underway import Underway
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import ResourceExhaustedError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import Pause, Sandbox, Status, Target
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import SandboxFilter, Store
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)


class Restoring:
    """From a row that is paused to one that runs."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        checkpoints: Checkpoints,
        templates: Templates,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        underway: Underway,
        admission: Admission,
        configuring: Configuring,
        deadlines: Deadlines,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._templates = templates
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._underway = underway
        self._admission = admission
        self._configuring = configuring
        self._deadlines = deadlines

    async def run(self, sandbox_id: SandboxId, lifetime: timedelta, *, urgent: bool = False) -> Sandbox:
        """
        Resume, once nothing else is under way; those who want it at the same time share the work.

        Args:
            sandbox_id: whose.
            lifetime: how long it lives from then on.
            urgent: whether a request is held up by it.

        Raises:
            NotFoundError: it is neither paused nor running any more.
            FailedPreconditionError: its checkpoint is damaged, or belongs to something that is not here.
            ResourceExhaustedError, UnavailableError, DeadlineExceededError: it stays paused, and why.
        """
        while (job := self._underway.get(sandbox_id)) is not None:
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
        if (job := self._underway.get(sandbox_id)) is None:
            job = self._underway.begin(row, lambda: self._bring_back(row, lifetime, urgent))
        return await job.wait()

    async def put_back(self, row: Sandbox) -> None:
        """Undo half a resume."""
        async with self._locks.hold(row.id):
            now = await self._store.get_sandbox(row.id)
            if now.status is not Status.RESUMING:
                # It runs, or is being removed.
                return
            await abandon(self._runtime, row.id)

            def paused(row: Sandbox) -> Sandbox:
                if row.status is not Status.RESUMING:
                    return row
                return replace(row, target=Target.PAUSED, status=Status.PAUSED)

            await change(self._store, row.id, paused)

    async def _bring_back(self, row: Sandbox, lifetime: timedelta, urgent: bool) -> Sandbox:
        assert row.pause is not None
        try:
            async with self._admission.turn(row.team_id, urgent=urgent), self._locks.hold(row.id):
                running = await self._restore(row, row.pause, lifetime)
        except BaseException as error:
            log.warning("sandbox not resumed", sandbox_id=row.id, error=str(error) or type(error).__name__)
            await self.put_back(row)
            raise
        try:
            await self._checkpoints.remove(row.pause.checkpoint)
        except UnavailableError as error:
            # The next start removes it.
            log.warning("checkpoint not removed", sandbox_id=row.id, error=str(error))
        log.info("sandbox resumed", sandbox_id=row.id, kind=row.pause.kind, generation=row.generation)
        return running

    async def _restore(self, row: Sandbox, pause: Pause, lifetime: timedelta) -> Sandbox:
        await check_unchanged(self._store, row)
        template = await self._templates.get(row.template_id)
        async with self._checkpoints.raw(pause.checkpoint) as path:
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
