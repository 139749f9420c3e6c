"""
Snapshots of running sandboxes, and forks: sandboxes created from one, many at once.

Row (making), machine written down while it stands still for a moment, row (ready). What fails, is cancelled
or is found half done at a start leaves neither row nor checkpoint.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

import structlog

from atoll.server.control.lifecycle.creating import Creating
from atoll.server.control.lifecycle.sealing import Sealing
from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor, CreateSandbox, MountWish
from atoll.server.control.rows.checking import check_timeout
from atoll.server.control.rows.reading import Reading, not_there
from atoll.server.control.turns.admission import Admission
from atoll.server.control.turns.locks import Locks
from atoll.server.control.work.retrying import tried
from atoll.server.control.work.tasks import Job, Tasks
from atoll.server.control.work.waiting import within
from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.errors import (
    AlreadyExistsError,
    AtollError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, TeamId, parse_sandbox_id
from atoll.server.domain.sandbox import SLEEPING, Sandbox, Status
from atoll.server.domain.snapshot import (
    Snapshot,
    SnapshotId,
    SnapshotStatus,
    bare_reference,
    check_name,
    may_be_reference,
    new_snapshot_id,
)
from atoll.server.domain.template import Template
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.snapshots import SnapshotQuery, SnapshotStore
from atoll.server.ports.store import Store
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)

# Of one page of a list.
MOST_LISTED = 100
_LIVING = SLEEPING | {Status.RUNNING}


class Snapshots:
    """Takes, finds, lists and deletes snapshots, and forks sandboxes."""

    def __init__(
        self,
        *,
        snapshots: SnapshotStore,
        store: Store,
        runtime: Runtime,
        checkpoints: Checkpoints,
        templates: Templates,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        tasks: Tasks,
        sealing: Sealing,
        admission: Admission,
        reading: Reading,
        creating: Creating,
    ) -> None:
        self._snapshots = snapshots
        self._store = store
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._templates = templates
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._tasks = tasks
        self._sealing = sealing
        self._admission = admission
        self._reading = reading
        self._creating = creating
        self._underway: dict[SnapshotId, tuple[SandboxId, Job[Snapshot]]] = {}

    async def take(
        self, actor: Actor, untrusted_id: str, untrusted_name: str | None, kind: CheckpointKind
    ) -> Snapshot:
        """
        Write a running sandbox down, which goes on; return when all of it is on the disk.

        Args:
            actor: who asks.
            untrusted_id: whose.
            untrusted_name: for the snapshot; an older one of this name loses it.
            kind: what to keep.

        Raises:
            InvalidArgumentError: id or name have another form.
            AlreadyExistsError: a template has this name.
            NotFoundError: no such sandbox.
            FailedPreconditionError: it does not run.
            ResourceExhaustedError: the team has as many as it may, or the disk is full.
            UnavailableError, DeadlineExceededError: it could not be written; nothing is left of it.
        """
        row = await self._running(actor, untrusted_id)
        name = None if untrusted_name is None else await self._free(row.team_id, untrusted_name)
        return await self._take(row, name, kind)

    async def fork(
        self, actor: Actor, untrusted_id: str, count: int, lifetime: timedelta
    ) -> Sequence[Sandbox | AtollError]:
        """
        Create sandboxes that go on where a running one is now; it goes on, too.

        Each has its own id, token, host name and address, and else what the first one has.

        Args:
            actor: who asks.
            untrusted_id: whose.
            count: how many.
            lifetime: of each, from when it runs.

        Returns:
            For each, the sandbox, or why there is none.

        Raises:
            InvalidArgumentError: the count is not 1 to ``max_forks``, the lifetime is none or too long,
                or the id has another form.
            AtollError: as for ``take``.
        """
        if not 1 <= count <= self._limits.max_forks:
            raise InvalidArgumentError(f"count must be 1 to {self._limits.max_forks}")
        # The sandbox is not to stand still for children that cannot be.
        check_timeout(lifetime, self._limits)
        row = await self._running(actor, untrusted_id)
        # Not ready for others: it goes with the fork, also when the server does.
        snapshot = await self._take(row, None, CheckpointKind.MEMORY, is_ready=False)
        made = set[SandboxId]()
        wish = CreateSandbox(
            # As its lists show it: the snapshot is gone when all are there.
            template=row.template_alias,
            timeout=lifetime,
            metadata=row.metadata,
            egress=row.egress,
            ingress=row.ingress,
            secured=row.secured,
            volumes=tuple(MountWish(name=one.name, path=one.path) for one in row.volumes),
            on_deadline=row.on_deadline,
            auto_resume=row.auto_resume,
            tokens=row.tokens,
        )
        try:
            template = await self._templates.get(row.template_id)
            children = (self._child(actor, wish, template, snapshot, made) for _ in range(count))
            return await asyncio.gather(*children)
        except asyncio.CancelledError:
            # Those under way are undone by themselves; nobody knows of those that were ready before.
            for child_id in made:
                self._creating.undo(child_id)
            raise
        finally:
            self._drop_later(snapshot.id)

    async def find(self, actor: Actor, untrusted_reference: str) -> Snapshot | None:
        """Find a snapshot by id or name, also as E2B's clients write them."""
        bare = bare_reference(untrusted_reference, actor.team_id)
        return await self._snapshots.find_snapshot(actor.team_id, bare) if may_be_reference(bare) else None

    async def list(self, query: SnapshotQuery) -> Sequence[Snapshot]:
        """
        List a team's snapshots, newest first.

        Raises:
            InvalidArgumentError: the limit is not 1 to 100.
        """
        if not 1 <= query.limit <= MOST_LISTED:
            raise InvalidArgumentError(f"limit must be 1 to {MOST_LISTED}")
        return await self._snapshots.list_snapshots(query)

    async def delete(self, actor: Actor, untrusted_reference: str) -> bool:
        """Delete a snapshot and free its disk; what was created from it lives on. False: there is none."""
        found = await self.find(actor, untrusted_reference)
        if found is None:
            return False
        await self._drop(found.id)
        log.info("snapshot deleted", snapshot_id=found.id)
        return True

    def stop(self, sandbox_id: SandboxId) -> None:
        """Stop writing a sandbox down, since it is killed."""
        for underway, job in list(self._underway.values()):
            if underway == sandbox_id:
                job.cancel(not_there(sandbox_id))

    async def stop_all(self) -> None:
        """Stop all that is being written, before everything is ended."""
        jobs = [job for _, job in self._underway.values()]
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait([job.outcome for job in jobs])

    async def take_up(self) -> frozenset[str]:
        """Settle what an earlier server left; return the checkpoints that are to stay."""
        there = await self._checkpoints.names()
        kept = set[str]()
        for snapshot in await self._snapshots.all_snapshots():
            if snapshot.status is SnapshotStatus.READY and snapshot.id in there:
                kept.add(snapshot.id)
                continue
            if snapshot.status is SnapshotStatus.READY:
                log.error("snapshot lost: its checkpoint is not there", snapshot_id=snapshot.id)
            await self._snapshots.delete_snapshot(snapshot.id)
        return frozenset(kept)

    async def _running(self, actor: Actor, untrusted_id: str) -> Sandbox:
        sandbox_id = parse_sandbox_id(untrusted_id)
        row = await self._reading.get(actor, sandbox_id, statuses=_LIVING)
        if row.status is not Status.RUNNING:
            raise _asleep(row)
        return row

    async def _free(self, team_id: TeamId, untrusted_name: str) -> str:
        name = check_name(bare_reference(untrusted_name, team_id))
        try:
            template = await self._templates.get(name)
        except NotFoundError:
            return name
        raise AlreadyExistsError(f"A template is called '{template.name}'")

    async def take_scheduled(self, row: Sandbox) -> Snapshot:
        """
        Write a running sandbox down as its schedule says, and remove the oldest that schedule made.

        Raises:
            AtollError: as for ``take``.
        """
        taken = await self._take(row, None, CheckpointKind.MEMORY, scheduled=True)
        query = SnapshotQuery(team_id=row.team_id, sandbox_id=row.id, scheduled=True)
        # As many as that were never more; of a longer list the rest goes next time.
        for old in (await self._snapshots.list_snapshots(query))[row.upkeep.keep_snapshots :]:
            log.info("scheduled snapshot removed", snapshot_id=old.id, sandbox_id=row.id)
            await self._drop(old.id)
        return taken

    async def _take(
        self,
        row: Sandbox,
        name: str | None,
        kind: CheckpointKind,
        *,
        scheduled: bool = False,
        is_ready: bool = True,
    ) -> Snapshot:
        making = Snapshot(
            id=new_snapshot_id(),
            team_id=row.team_id,
            sandbox_id=row.id,
            template_id=row.template_id,
            template_alias=row.template_alias,
            kind=kind,
            generation=row.generation,
            limits=row.limits,
            env=row.env,
            status=SnapshotStatus.MAKING,
            created_at=self._clock.now(),
            scheduled=scheduled,
        )
        await self._snapshots.add_snapshot(making, most=self._limits.max_snapshots)
        job = self._tasks.job(f"snapshot {row.id}", lambda: self._write(row, making, name, is_ready))
        self._underway[making.id] = (row.id, job)
        job.outcome.add_done_callback(lambda _: self._underway.pop(making.id, None))
        try:
            taken = await job.wait()
        except asyncio.CancelledError:
            # The caller went away, and nobody else knows of it.
            job.cancel()
            raise
        self._sealing.begin(taken.id)
        return taken

    async def _write(self, row: Sandbox, making: Snapshot, name: str | None, is_ready: bool) -> Snapshot:
        try:
            checkpoint = await self._in_turn(row, making)
            taken = await self._snapshots.finish_snapshot(making.id, name, checkpoint.size, is_ready=is_ready)
        except BaseException as error:
            log.warning("snapshot not taken", sandbox_id=row.id, error=str(error) or type(error).__name__)
            try:
                await self._drop(making.id)
            except AtollError as problem:
                # What its caller is to hear is why there is none.
                log.warning("half a snapshot not removed yet", snapshot_id=making.id, error=str(problem))
                self._drop_later(making.id)
            raise
        log.info("snapshot taken", snapshot_id=taken.id, sandbox_id=row.id, size_bytes=taken.size_bytes)
        return taken

    async def _in_turn(self, row: Sandbox, making: Snapshot) -> Checkpoint:
        """Write a sandbox down with a turn and its lock, holding neither while the other is waited for."""
        while True:
            # A pause that is under way needs a turn itself; behind it, there is nothing to write down.
            async with self._locks.hold(row.id):
                await self._check_runs(row)
            async with self._admission.turn(row.team_id):
                # Whoever came meanwhile goes first.
                if not self._locks.held(row.id):
                    async with self._locks.hold(row.id):
                        await self._check_runs(row)
                        return await self._written(row, making)

    async def _written(self, row: Sandbox, making: Snapshot) -> Checkpoint:
        path = self._checkpoints.path(making.id)
        written = self._runtime.checkpoint(row.id, path, kind=making.kind, leave_running=True)
        try:
            return await within(self._limits.pause_timeout, "stand still on the disk", written)
        except NotFoundError as error:
            # The sandbox is there: it has failed in a moment, or comes back.
            raise UnavailableError(
                f"Sandbox {row.id} could not be written down: its machine has just ended",
                details=error.message,
            ) from error

    async def _check_runs(self, row: Sandbox) -> None:
        """Check that a sandbox neither was paused nor ended while this waited for its turn."""
        now = await self._store.get_sandbox(row.id)
        if now.status in SLEEPING:
            raise _asleep(now)
        if now.status is not Status.RUNNING:
            raise not_there(row.id)

    async def _child(
        self, actor: Actor, wish: CreateSandbox, template: Template, origin: Snapshot, made: set[SandboxId]
    ) -> Sandbox | AtollError:
        try:
            child = await self._creating.create(actor, wish, template, origin)
        except AtollError as error:
            return error
        made.add(child.id)
        return child

    async def _drop(self, snapshot_id: SnapshotId) -> None:
        """Row first: what no row names is removed at the next start."""
        await self._snapshots.delete_snapshot(snapshot_id)
        try:
            await self._checkpoints.remove(snapshot_id)
        except UnavailableError as error:
            log.warning("checkpoint not removed", snapshot_id=snapshot_id, error=str(error))

    def _drop_later(self, snapshot_id: SnapshotId) -> None:
        """Do so behind this, until it is done; when the server stops, the next one finds half a snapshot."""
        what = f"remove {snapshot_id}"
        with contextlib.suppress(UnavailableError):
            self._tasks.job(what, lambda: tried(self._clock, what, lambda: self._drop(snapshot_id)))


def _asleep(row: Sandbox) -> AtollError:
    return FailedPreconditionError(f"Sandbox {row.id} is {row.status}, not running")
