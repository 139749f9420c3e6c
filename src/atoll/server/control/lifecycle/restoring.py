"""
Brings sandboxes back: the work behind a resume.

Row (resuming, of the next generation), machine restored, configured, row (running), checkpoint removed.
What fails on the way leaves it paused, with its checkpoint.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import structlog

from atoll.server.control.lifecycle.addresses import Addresses
from atoll.server.control.lifecycle.checkpointing import abandon, check_unchanged
from atoll.server.control.lifecycle.deadlines import Deadlines
from atoll.server.control.lifecycle.sealing import Sealing
from atoll.server.control.lifecycle.starting import Starting
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.configuring import Configuring, spec_of
from atoll.server.control.rows.changing import MOST_TRIES, change
from atoll.server.control.rows.reading import moved_on
from atoll.server.control.rows.room import check_room
from atoll.server.control.turns.admission import Admission, Turn, Urgency
from atoll.server.control.turns.locks import Locks
from atoll.server.control.work.tasks import Job, Tasks
from atoll.server.control.work.underway import Underway
from atoll.server.control.work.waiting import within
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    AbortedError,
    AtollError,
    DeadlineExceededError,
    FailedPreconditionError,
    Reason,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine, MachineSpec
from atoll.server.domain.sandbox import (
    SLEEPING,
    Pause,
    Sandbox,
    Status,
    Target,
    pausing_at_deadline,
    set_going,
)
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)

# Also one whose resume was given up before anything was under way.
_RESUMED = frozenset({Status.PAUSED, Status.RESUMING})


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What a resume is to bring back; who wants the same shares it."""

    memory: bool


class Restoring:
    """From a row that is paused to one that runs."""

    def __init__(
        self,
        *,
        store: Store,
        api_keys: ApiKeys,
        runtime: Runtime,
        checkpoints: Checkpoints,
        templates: Templates,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        tasks: Tasks,
        sealing: Sealing,
        underway: Underway,
        admission: Admission,
        configuring: Configuring,
        deadlines: Deadlines,
        starting: Starting,
        addresses: Addresses,
    ) -> None:
        self._store = store
        self._api_keys = api_keys
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._templates = templates
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._tasks = tasks
        self._sealing = sealing
        self._underway = underway
        self._admission = admission
        self._configuring = configuring
        self._deadlines = deadlines
        self._starting = starting
        self._addresses = addresses

    async def run(
        self,
        sandbox_id: SandboxId,
        lifetime: timedelta,
        *,
        urgent: bool = False,
        memory: bool = True,
        auto_pause: bool = False,
    ) -> Sandbox:
        """
        Resume, once nothing else is under way; those who want the same meanwhile share the work and its
        outcome, and it is as urgent then as any of them makes it. One that runs lives at least so long.

        Args:
            sandbox_id: whose.
            lifetime: how long it lives from then on.
            urgent: whether a request is held up by it; none holds up others for a guest known to be silent.
            memory: false: it boots from its files, though its memory was kept, too.
            auto_pause: true: it is paused at its deadline from then on, if it was to be killed.

        Raises:
            NotFoundError: it is neither paused nor running any more.
            FailedPreconditionError: its checkpoint is damaged, or belongs to something that is not here, or
                its guest is silent (``GUEST_SILENT``).
            ResourceExhaustedError, UnavailableError, DeadlineExceededError: it stays paused, and why.
            AbortedError: others changed it all the time.
        """
        wish = _Wish(memory=memory)
        for _ in range(MOST_TRIES):
            row = await self._once_idle(sandbox_id, wish, urgent=urgent)
            if row.status is Status.RUNNING:
                row = await self._deadlines.refresh(
                    sandbox_id, lifetime, lambda _: None, auto_pause=auto_pause
                )
                if row.status is Status.RUNNING:
                    return row
            elif row.status in _RESUMED:
                row = await self._say_resuming(row, urgent=urgent, auto_pause=auto_pause)
                job = self._underway.wished(sandbox_id, wish)
                if job is None and row.status is Status.RESUMING and self._underway.get(sandbox_id) is None:
                    job = self._begin(row, lifetime, wish)
                if job is not None:
                    if urgent:
                        self._underway.hurry(sandbox_id)
                    # Where somebody else was done by then, it is looked at again.
                    with contextlib.suppress(AbortedError):
                        row = await job.wait()
                        if row.status is Status.RUNNING:
                            return row
            elif row.status not in SLEEPING:
                break
            # Something else has begun with it just now.
        raise moved_on(row)

    async def _once_idle(self, sandbox_id: SandboxId, wish: _Wish, *, urgent: bool) -> Sandbox:
        """
        Return the row when nothing is under way, which is hurried where a request is held up by it.

        Raises:
            AtollError: the same was under way, and failed: it would again for each who waited for it.
        """
        while (job := self._underway.get(sandbox_id)) is not None:
            shared = self._underway.wished(sandbox_id, wish)
            if urgent and _is_silent(await self._store.get_sandbox(sandbox_id)):
                # A request is told that, whatever a resume for somebody else comes to.
                shared = None
            elif urgent:
                self._underway.hurry(sandbox_id)
            await asyncio.wait([job.outcome])
            if shared is not None:
                # Where somebody else was done by then, it is looked at again.
                with contextlib.suppress(AbortedError):
                    await shared.wait()
        return await self._store.get_sandbox(sandbox_id)

    async def _say_resuming(self, row: Sandbox, *, urgent: bool, auto_pause: bool) -> Sandbox:
        """Have a row say that it resumes; returns it, as it is where somebody else was faster."""
        if urgent and _is_silent(row):
            raise _silent(row.id)
        team = await self._api_keys.get_team(row.team_id)
        await check_room(self._store, self._limits, team.id, team.limits)

        def resuming(now: Sandbox) -> Sandbox:
            if now.status not in _RESUMED:
                return now
            now = pausing_at_deadline(now) if auto_pause else now
            return replace(now, target=Target.RUNNING, status=Status.RESUMING, generation=now.generation + 1)

        return await change(self._store, row.id, resuming)

    def _begin(self, row: Sandbox, lifetime: timedelta, wish: _Wish) -> Job[Sandbox]:
        urgency = Urgency()
        return self._underway.begin(
            row, lambda: self._bring_back(row, lifetime, urgency, memory=wish.memory), urgency, wish=wish
        )

    async def idle(self, sandbox_id: SandboxId) -> None:
        """Return when nothing is under way with a sandbox."""
        while (job := self._underway.get(sandbox_id)) is not None:
            await asyncio.wait([job.outcome])

    async def put_back(self, row: Sandbox) -> Sandbox:
        """Undo half a resume; returns the row as it is then."""
        async with self._locks.hold(row.id):
            now = await self._store.get_sandbox(row.id)
            if now.status is not Status.RESUMING:
                # It runs, or is being removed.
                return now
            if now.fall is not None and now.fall.problem is not None:
                # Nothing tries again by itself, and it has no connection that wants its address.
                await self._addresses.give_up(row.id)
            await abandon(self._runtime, row.id)

            def paused(row: Sandbox) -> Sandbox:
                if row.status is not Status.RESUMING:
                    return row
                # What fell is to come back all the same.
                target = Target.RUNNING if row.is_falling else Target.PAUSED
                return replace(row, target=target, status=Status.PAUSED)

            return await change(self._store, row.id, paused)

    async def _bring_back(
        self, row: Sandbox, lifetime: timedelta, urgency: Urgency, *, memory: bool
    ) -> Sandbox:
        try:
            async with self._locks.hold(row.id), self._admission.turn(row.team_id, urgency) as turn:
                if row.pause is not None:
                    self._sealing.stop(row.pause.checkpoint)
                if not memory and row.pause is not None and row.pause.kind is CheckpointKind.MEMORY:
                    row = await self._forget_memory(row, row.pause)
                running = await self._restore(row, lifetime, turn)
        except BaseException as error:
            log.warning("sandbox not resumed", sandbox_id=row.id, error=str(error) or type(error).__name__)
            await self._underway.settle(row, lambda: self.put_back(row), lambda: self.put_back(row))
            if row.pause is not None:
                self._sealing.begin(row.pause.checkpoint)
            raise
        if row.pause is not None:
            # Nobody waits for that: it takes 80 ms for 512 MB. Where the server stops, the next one does it.
            with contextlib.suppress(UnavailableError):
                self._tasks.job(f"drop {row.id}", partial(self._drop, row.id, row.pause.checkpoint))
        kind = row.pause.kind if row.pause is not None else None
        log.info("sandbox resumed", sandbox_id=row.id, kind=kind, generation=row.generation)
        return running

    async def _drop(self, sandbox_id: SandboxId, checkpoint: str) -> None:
        try:
            await self._checkpoints.remove(checkpoint)
        except UnavailableError as error:
            # The next start removes it.
            log.warning("checkpoint not removed", sandbox_id=sandbox_id, error=str(error))

    async def _forget_memory(self, row: Sandbox, pause: Pause) -> Sandbox:
        """
        Make a checkpoint of files of one that has memory, too, and return the row that names it.

        The files are inside of the memory's images: so it goes on for the moment in which they are written
        down, without any network, and nobody is led there. Its guest may hang: that may be why it is to boot.
        """
        await check_unchanged(self._store, row)
        spec = replace(spec_of(row), egress=EgressPolicy(internet=False))
        await self._bring_up(row, spec, pause.checkpoint, listens=False)
        name = f"{row.id}-{row.generation}"
        path = self._checkpoints.path(name)
        written = self._runtime.checkpoint(row.id, path, kind=CheckpointKind.FILES, leave_running=False)
        files = replace(pause, checkpoint=name, kind=CheckpointKind.FILES, silent=False)

        def without(now: Sandbox) -> Sandbox:
            if now.status is not Status.RESUMING:
                raise moved_on(now)
            return replace(now, pause=files)

        try:
            await within(self._limits.pause_timeout, "stand still on the disk", written)
            # What does not go keeps it from booting: then it keeps its memory, too.
            await self._runtime.abandon(row.id)
            return await change(self._store, row.id, without)
        finally:
            # Also what failed may be whole, and a write that failed may have arrived.
            await self._drop_unnamed(row.id, pause.checkpoint, name)

    async def _drop_unnamed(self, sandbox_id: SandboxId, *names: str) -> None:
        try:
            pause = (await self._store.get_sandbox(sandbox_id)).pause
        except AtollError as error:
            # The next start knows which.
            log.warning("checkpoint not removed", sandbox_id=sandbox_id, error=str(error))
            return
        for name in names:
            if pause is None or name != pause.checkpoint:
                await self._drop(sandbox_id, name)

    async def _restore(self, row: Sandbox, lifetime: timedelta, turn: Turn) -> Sandbox:
        await check_unchanged(self._store, row)
        machine = await self._configured(row, turn)
        at = self._clock.now()

        def running(now: Sandbox) -> Sandbox:
            if now.status is not Status.RESUMING:
                raise moved_on(now)
            fall = replace(now.fall, back_at=at, problem=None) if now.fall and now.is_falling else now.fall
            going = set_going(now, at, lifetime)
            return replace(going, status=Status.RUNNING, address=machine.address, pause=None, fall=fall)

        found = await change(self._store, row.id, running)
        self._deadlines.began(found)
        return found

    async def _configured(self, row: Sandbox, turn: Turn) -> Machine:
        template = await self._templates.get(row.template_id)
        # Nothing may have been kept of what fell.
        kept = row.pause.checkpoint if row.pause is not None else None
        # Whether a silent one answers, it is asked when it is up: what fails before is not its doing.
        machine = await self._bring_up(
            row, spec_of(row), kept, listens=not _is_silent(row), came=turn.guest_is_awaited
        )
        booted = row.pause is None or row.pause.kind is CheckpointKind.FILES
        try:
            await self._configuring.configure(row, machine, template, booted=booted)
        except (UnavailableError, DeadlineExceededError) as error:
            if not _is_silent(row):
                raise
            raise _silent(row.id, str(error)) from error
        return machine

    async def _bring_up(
        self,
        row: Sandbox,
        spec: MachineSpec,
        checkpoint: str | None,
        *,
        listens: bool,
        came: Callable[[], None] = lambda: None,
    ) -> Machine:
        return await self._starting.bring_up(
            spec, checkpoint, clear=lambda: self._runtime.abandon(row.id), listens=listens, came=came
        )


def _is_silent(row: Sandbox) -> bool:
    return row.pause is not None and row.pause.silent


def _silent(sandbox_id: SandboxId, details: str | None = None) -> AtollError:
    return FailedPreconditionError(
        f"Sandbox {sandbox_id} did not answer when it was paused, and may not with its memory from then",
        details=details,
        resolution="Resume it without its memory: it boots from its files.",
        reason=Reason.GUEST_SILENT,
    )
