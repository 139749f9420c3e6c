"""
Pauses sandboxes, and resumes them: the verbs, and what the server does by itself.

A pause: row (pausing, with the checkpoint's name), then ``checkpointing``. A resume: ``restoring``.
Where the machine, or the server, ends first: ``settling``.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from atoll.server.control.lifecycle.checkpointing import Checkpointing
from atoll.server.control.lifecycle.restoring import Restoring
from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor
from atoll.server.control.rows import checking
from atoll.server.control.rows.changing import change
from atoll.server.control.rows.reading import Reading, not_there
from atoll.server.control.turns.admission import Urgency
from atoll.server.control.work.tasks import Job
from atoll.server.control.work.underway import Underway
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    FailedPreconditionError,
    NotFoundError,
)
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.domain.sandbox import (
    SLEEPING,
    OnDeadline,
    Pause,
    Sandbox,
    Status,
    Target,
)
from atoll.server.domain.upkeep import PARKED, Fall
from atoll.server.ports.clock import Clock
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

_LIVING = SLEEPING | {Status.RUNNING}


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What a pause is for; ``pause`` says what the fields mean."""

    kind: CheckpointKind
    healthy: bool


class Pausing:
    """The verbs pause, resume and connect, and what is done without a caller."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        limits: ControlLimits,
        reading: Reading,
        underway: Underway,
        checkpointing: Checkpointing,
        restoring: Restoring,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._reading = reading
        self._underway = underway
        self._checkpointing = checkpointing
        self._restoring = restoring

    async def pause(
        self, actor: Actor, untrusted_id: str, kind: CheckpointKind, *, healthy: bool = False
    ) -> Sandbox:
        """
        Write a running sandbox down and end its machine; return when all of it is on the disk.

        It goes on if the caller goes away. Who asks for the same while that is under way shares it, and its
        outcome: a client that heard no answer asks again. One that is being resumed is paused once it runs.

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
        wish = _Wish(kind=kind, healthy=healthy)
        # E2B's clients take a refusal for "it was paused before": it would run on, and nobody would know.
        while True:
            row = await self._reading.get(actor, sandbox_id, statuses=_LIVING)
            if (same := self._underway.wished(sandbox_id, wish)) is not None:
                shared = await same.wait()
                if shared.status is not Status.RUNNING:
                    return shared
                # It had failed before, and has come to its end: it runs on.
            elif row.status is Status.RESUMING and (resume := self._underway.get(sandbox_id)) is not None:
                await asyncio.wait([resume.outcome])
            else:
                break
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
            AbortedError: others changed it all the time.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        checking.check_timeout(from_now, self._limits)
        row = await self._reading.get(actor, sandbox_id, statuses=_LIVING)
        found = await self._restoring.run(sandbox_id, from_now, memory=memory, auto_pause=auto_pause)
        return found, row.status is not Status.RUNNING or found.generation != row.generation

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
            await self._restoring.run(sandbox_id, max(row.timeout, self._limits.wake_timeout), urgent=True)

    def stop(self, sandbox_id: SandboxId) -> None:
        """Stop what is under way with a sandbox, since it is killed."""
        self._underway.stop(sandbox_id, not_there(sandbox_id))

    async def park(self, sandbox_id: SandboxId, kind: CheckpointKind) -> None:
        """
        Write a running sandbox down that the next start is to resume.

        Raises:
            NotFoundError: it ended meanwhile.
            AtollError: it could not be written down, and runs on.
        """
        fall = Fall(reason=PARKED, at=self._clock.now())
        await (await self._begin_pause(sandbox_id, kind, fall=fall)).wait()

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
            row,
            lambda: self._checkpointing.run(row, urgency, ask=ask, healthy=healthy),
            urgency,
            # What is to come back at the next start is nobody's pause.
            wish=_Wish(kind=kind, healthy=healthy) if fall is None else None,
        )

    def _is_due(self, row: Sandbox) -> bool:
        return row.deadline <= self._clock.now()
