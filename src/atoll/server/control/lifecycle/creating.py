"""
Creates sandboxes: row, machine (``making``), row again.

Whatever goes wrong on the way, cancellation included, is undone by ``Killing``, which outlives
the caller; the row then says at which step it failed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import structlog

from atoll.server.control.lifecycle import repeating
from atoll.server.control.lifecycle.deadlines import Deadlines
from atoll.server.control.lifecycle.making import Creation, Making
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.killing import End, Killing
from atoll.server.control.owned.volumes import Volumes
from atoll.server.control.requests import Actor, CreateSandbox
from atoll.server.control.rows import checking
from atoll.server.control.rows.room import check_room
from atoll.server.control.turns.admission import Admission
from atoll.server.control.turns.locks import Locks
from atoll.server.control.warm.pool import Pool
from atoll.server.control.work.tasks import Tasks
from atoll.server.domain import identity, ingress
from atoll.server.domain.errors import (
    AbortedError,
    AtollError,
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    Reason,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.domain.sandbox import EndReason, Sandbox, Status, Target, set_going
from atoll.server.domain.snapshot import Snapshot
from atoll.server.domain.team_limits import TeamLimits, check_size
from atoll.server.domain.template import Template
from atoll.server.domain.upkeep import NEVER
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Creating:
    """Creates sandboxes, and knows those under way."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        edge: Edge,
        volumes: Volumes,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        tasks: Tasks,
        killing: Killing,
        deadlines: Deadlines,
        admission: Admission,
        pool: Pool,
        making: Making,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._edge = edge
        self._volumes = volumes
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._tasks = tasks
        self._killing = killing
        self._deadlines = deadlines
        self._admission = admission
        self._pool = pool
        self._making = making
        # Counting and adding a row are two calls; between them nobody else may add one.
        self._adding = asyncio.Lock()
        self._underway: dict[SandboxId, Creation] = {}
        self._stopped = False

    async def create(
        self, actor: Actor, wish: CreateSandbox, template: Template, origin: Snapshot | None = None
    ) -> Sandbox:
        """Do what ``Control.create`` promises, with what was found: a template, and a snapshot over it."""
        checking.check_timeout(wish.timeout, self._limits)
        checking.check_metadata(wish.metadata, self._limits)
        checking.check_env(wish.env, self._limits)
        policy = checking.check_egress(wish.egress, self._limits)
        tokens = identity.check_tokens(wish.tokens)
        checking.check_tokens_named(policy, tokens)
        if policy.proxy is not None:
            await self._edge.check_proxy(policy.proxy.host)
        volumes = await self._volumes.mounts(actor, wish.volumes)
        limits = checking.sized(origin.limits if origin else template.limits, wish.limits, self._limits)
        check_size(limits, actor.limits)
        now = self._clock.now()
        row = Sandbox(
            id=new_sandbox_id(),
            team_id=actor.team_id,
            template_id=template.id,
            template_alias=wish.template,
            target=Target.RUNNING,
            status=Status.CREATING,
            limits=limits,
            egress=policy,
            ingress=ingress.checked(wish.ingress),
            metadata=dict(wish.metadata),
            env={**(origin.env if origin else {}), **wish.env},
            created_at=now,
            deadline=NEVER if wish.upkeep.persistent else now + wish.timeout,
            runtime=self._runtime.name,
            secured=wish.secured,
            volumes=volumes,
            on_deadline=wish.on_deadline,
            auto_resume=wish.auto_resume,
            timeout=wish.timeout,
            tokens=tokens,
            request=repeating.named(wish),
            upkeep=checking.check_upkeep(wish.upkeep, self._limits),
        )
        try:
            # From before it takes a machine of the pool: whoever makes the next one hears of that first.
            with self._admission.wanted():
                return await self._run(row, actor.limits, wish.timeout, template, origin)
        except (UnavailableError, DeadlineExceededError, InternalError) as error:
            error.reason = error.reason or Reason.CREATE_FAILED
            raise

    def machine_ended(self, sandbox_id: SandboxId, end: End, error: AtollError) -> bool:
        """Stop a create whose machine ended; one from the pool is replaced instead. False: there is none."""
        creation = self._underway.get(sandbox_id)
        if creation is not None and creation.waiting is not None:
            # The claim fails in its own time, also where the machine had answered before it ended.
            creation.waiting_ended = True
            return True
        return self.stop(sandbox_id, end, error)

    def stop(self, sandbox_id: SandboxId, end: End, error: AtollError) -> bool:
        """Stop a create that is under way; its caller gets the error. False: there is none."""
        creation = self._underway.get(sandbox_id)
        if creation is None or creation.job is None or creation.job.done:
            return False
        if creation.stopped is None:
            creation.stopped = (end, error)
            creation.job.cancel()
        return True

    def undo(self, sandbox_id: SandboxId) -> None:
        """Begin to remove one that came up, and of which its caller was not told, since it had gone away."""
        # Where the server stops, its deadline ends it.
        with suppress(UnavailableError):
            self._tasks.job(f"undo {sandbox_id}", lambda: self._killing.begin(sandbox_id, _caller_gone()))

    def stop_all(self) -> None:
        """Stop every create, because the server stops; none begins any more, though it was let in before."""
        self._stopped = True
        for sandbox_id in list(self._underway):
            self.stop(sandbox_id, End(reason=EndReason.START_INTERRUPTED), _stopping())

    async def _run(
        self,
        row: Sandbox,
        team: TeamLimits,
        lifetime: timedelta,
        template: Template,
        snapshot: Snapshot | None,
    ) -> Sandbox:
        if self._stopped:
            raise _stopping()
        waiting = None if snapshot else self._pool.take(template, row.limits, row.team_id)
        creation = Creation(team=team, origin=self._making.origin(row, template, snapshot), waiting=waiting)
        if waiting is not None:
            row = replace(row, id=waiting.sandbox_id, generation=waiting.generation + 1)
        elif creation.origin is not None:
            row = replace(row, generation=creation.origin.generation + 1)
        try:
            creation.job = self._tasks.job(
                f"create {row.id}", lambda: self._create(creation, row, lifetime, template)
            )
        except UnavailableError:
            self._give_back(creation)
            raise
        self._underway[row.id] = creation
        creation.job.outcome.add_done_callback(lambda _: self._underway.pop(row.id, None))
        try:
            return await creation.job.wait()
        except asyncio.CancelledError:
            gone = _caller_gone()
            if not self.stop(row.id, gone, _stopping()) and creation.job.succeeded():
                # It came up at this very moment, and nobody was told.
                self.undo(row.id)
            raise

    async def _create(
        self, creation: Creation, row: Sandbox, lifetime: timedelta, template: Template
    ) -> Sandbox:
        begun = False
        try:
            async with self._turn(creation, row), self._locks.hold(row.id):
                begun = True
                earlier = await self._add(row, creation.team)
                if earlier is not None:
                    self._give_back(creation)
                    return earlier
                return await self._bring_up(creation, row, lifetime, template)
        except BaseException as error:
            if begun:
                await self._undo(creation, row, error)
            else:
                self._give_back(creation)
            if creation.stopped is not None:
                raise creation.stopped[1] from error
            raise

    @asynccontextmanager
    async def _turn(self, creation: Creation, row: Sandbox) -> AsyncIterator[None]:
        if creation.waiting is not None:
            # Cheap: it takes nobody's turn.
            yield
        else:
            async with self._admission.turn(row.team_id) as turn:
                creation.turn = turn
                yield

    def _give_back(self, creation: Creation) -> None:
        """Let the machine wait on, of which no row tells."""
        waiting, creation.waiting = creation.waiting, None
        if waiting is not None:
            self._pool.put_back(waiting)

    async def _add(self, row: Sandbox, team: TeamLimits) -> Sandbox | None:
        """Write the row, unless the same create was answered before: then return what it made."""
        async with self._adding:
            if (earlier := await repeating.answered(self._store, row)) is not None:
                return earlier
            await check_room(self._store, self._limits, row.team_id, team)
            await self._store.add_sandbox(row)
            return None

    async def _bring_up(
        self, creation: Creation, row: Sandbox, lifetime: timedelta, template: Template
    ) -> Sandbox:
        machine = await self._making.claim(creation, row, template)
        if machine is None:
            machine = await self._making.make(creation, row, template)
        creation.step = "record"
        now = self._clock.now()
        up = replace(row, status=Status.RUNNING, started_at=now, address=machine.address)
        running = set_going(up, now, lifetime)
        await self._store.replace_sandbox(row, running)
        self._deadlines.began(running)
        log.info("sandbox started", sandbox_id=row.id, template=row.template_id, runtime=row.runtime)
        return running

    async def _undo(self, creation: Creation, row: Sandbox, error: BaseException) -> None:
        end = creation.stopped[0] if creation.stopped else _failure(creation.step, error)
        try:
            begun = await self._killing.begin(row.id, end)
        except NotFoundError:
            # The row was never written, so nothing was begun.
            self._give_back(creation)
            return
        except AtollError as problem:
            log.warning("create not undone yet", sandbox_id=row.id, error=str(problem))
            # Its machine has no deadline that would end it. When the server stops, the next one sees to it.
            with suppress(UnavailableError):
                self._tasks.job(f"undo {row.id}", lambda: self._killing.insist(row.id, end))
            return
        if begun:
            # The caller hears why the create failed, not why the undoing takes longer.
            with suppress(UnavailableError):
                await self._killing.removed(row.id)


def _failure(step: str, error: BaseException) -> End:
    if isinstance(error, asyncio.CancelledError):
        return End(reason=EndReason.START_INTERRUPTED, detail=f"step {step}: cancelled")
    return End(reason=EndReason.START_FAILED, detail=f"step {step}: {error or type(error).__name__}")


def _caller_gone() -> End:
    return End(reason=EndReason.START_INTERRUPTED, detail="the caller went away")


def _stopping() -> AtollError:
    return UnavailableError("The server is stopping")


def killed_while_created() -> AtollError:
    """Make the error for the caller of a create whose sandbox somebody killed."""
    return AbortedError("The sandbox was killed while it was being created")
