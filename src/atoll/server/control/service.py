"""
Control, as the dialects see it: every verb of a sandbox behind one object.

Calls take who asks (``Actor``) and plain data, and raise ``domain.errors``.
The verbs themselves live beside this file, one concern each; nothing here decides.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog

from atoll.server.control import access
from atoll.server.control.admission import Admission
from atoll.server.control.configuring import Configuring
from atoll.server.control.creating import Creating, killed_while_created
from atoll.server.control.deadlines import Deadlines
from atoll.server.control.finding import Finding, SignedFile
from atoll.server.control.forgetting import Forgetting
from atoll.server.control.idling import Idling
from atoll.server.control.killing import End, Killing, Parting
from atoll.server.control.limits import ControlLimits
from atoll.server.control.locks import Locks
from atoll.server.control.networking import Networking
from atoll.server.control.pausing import Pausing
from atoll.server.control.pool import Pool, PoolLimits
from atoll.server.control.probing import Probing
from atoll.server.control.reading import PRESENT, Reading, not_there
from atoll.server.control.reconciling import Reconciling
from atoll.server.control.requests import Actor, CreateSandbox, Route, SandboxPage
from atoll.server.control.reviving import Reviving
from atoll.server.control.room import ALIVE
from atoll.server.control.scheduling import Scheduling
from atoll.server.control.snapshots import Snapshots
from atoll.server.control.tasks import Tasks
from atoll.server.control.volumes import Volumes
from atoll.server.control.warming import Warming
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import NotFoundError, UnavailableError
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.domain.machine import ProcessKilledForMemory, Usage
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.domain.template import Template, no_such_tag, without_tag
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.guest import Guest
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.snapshots import SnapshotStore
from atoll.server.ports.store import Page, SandboxFilter, Store
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)

ANY = frozenset(Status)
RUNNING = frozenset({Status.RUNNING})
# Longer names name nothing; they would only make the error long.
MOST_TEMPLATE_NAME = 128


@dataclass(frozen=True, kw_only=True)
class Ports:
    """
    What control works with.

    Attributes:
        store: over a database that whoever made it opens and closes; so ``api_keys``.
        checkpoints: what paused sandboxes come back from, and snapshots.
        free_memory: bytes that the host has available now.
        parting: done with a sandbox before it is removed.
        runtime: opened and closed by control.
    """

    store: Store
    api_keys: ApiKeys
    runtime: Runtime
    guest: Guest
    edge: Edge
    templates: Templates
    volumes: Volumes
    clock: Clock
    checkpoints: Checkpoints
    snapshots: SnapshotStore
    free_memory: Callable[[], int]
    parting: Parting | None = None


class Control:
    """
    Creates, finds and ends sandboxes, and keeps rows and machines in agreement.

    Open and close it in one task: it owns a task group, and an error in its background work
    cancels that task, because a server that no longer follows its machines must not go on.
    """

    def __init__(
        self,
        ports: Ports,
        *,
        secret: bytes,
        dns_servers: tuple[str, ...],
        limits: ControlLimits,
        pool: PoolLimits,
    ) -> None:
        """
        Args:
            ports: everything outside.
            secret: what access tokens derive from; 32 bytes.
            dns_servers: name servers that sandboxes use, as seen from inside.
            limits: how much and how long.
            pool: how many machines wait to be claimed.
        """
        self._ports = ports
        self._secret = secret
        self._limits = limits
        self._tasks = Tasks()
        self._open = False
        locks = Locks()
        self._killing = Killing(
            store=ports.store,
            runtime=ports.runtime,
            edge=ports.edge,
            clock=ports.clock,
            limits=limits,
            locks=locks,
            tasks=self._tasks,
            checkpoints=ports.checkpoints,
            parting=ports.parting,
        )
        self._deadlines = Deadlines(
            store=ports.store, clock=ports.clock, limits=limits, killing=self._killing
        )
        admission = Admission(
            at_once=limits.concurrent_starts,
            most_waiting=limits.queued_starts,
            longest_wait=limits.start_queue_timeout,
            spare_at_once=max(pool.refills_at_once, 1),
            calm=pool.calm,
        )
        configuring = Configuring(guest=ports.guest, limits=limits, secret=secret, dns_servers=dns_servers)
        warming = Warming(
            runtime=ports.runtime,
            checkpoints=ports.checkpoints,
            templates=ports.templates,
            configuring=configuring,
            killing=self._killing,
            limits=limits,
        )
        self.pool = Pool(
            runtime=ports.runtime,
            checkpoints=ports.checkpoints,
            templates=ports.templates,
            warming=warming,
            configuring=configuring,
            killing=self._killing,
            admission=admission,
            clock=ports.clock,
            limits=limits,
            pool=pool,
            free_memory=ports.free_memory,
        )
        self._creating = Creating(
            store=ports.store,
            runtime=ports.runtime,
            configuring=configuring,
            edge=ports.edge,
            volumes=ports.volumes,
            clock=ports.clock,
            limits=limits,
            locks=locks,
            tasks=self._tasks,
            killing=self._killing,
            deadlines=self._deadlines,
            admission=admission,
            checkpoints=ports.checkpoints,
            pool=self.pool,
            warming=warming,
        )
        self._reading = Reading(store=ports.store, limits=limits)
        self.pausing = Pausing(
            store=ports.store,
            api_keys=ports.api_keys,
            runtime=ports.runtime,
            edge=ports.edge,
            checkpoints=ports.checkpoints,
            templates=ports.templates,
            clock=ports.clock,
            limits=limits,
            locks=locks,
            tasks=self._tasks,
            admission=admission,
            configuring=configuring,
            killing=self._killing,
            deadlines=self._deadlines,
            reading=self._reading,
        )
        self._deadlines.pause = self.pausing.expire
        self.snapshots = Snapshots(
            snapshots=ports.snapshots,
            store=ports.store,
            runtime=ports.runtime,
            checkpoints=ports.checkpoints,
            templates=ports.templates,
            clock=ports.clock,
            limits=limits,
            locks=locks,
            tasks=self._tasks,
            admission=admission,
            reading=self._reading,
            create=self.create,
        )
        self._reviving = Reviving(
            store=ports.store,
            runtime=ports.runtime,
            edge=ports.edge,
            checkpoints=ports.checkpoints,
            snapshots=ports.snapshots,
            clock=ports.clock,
            limits=limits,
            locks=locks,
            tasks=self._tasks,
            restoring=self.pausing.restoring,
        )
        self._killing.revive = self._reviving.begin
        self._scheduling = Scheduling(
            store=ports.store,
            snapshots=self.snapshots,
            clock=ports.clock,
            limits=limits,
            admission=admission,
        )
        self._idling = Idling(
            store=ports.store,
            edge=ports.edge,
            clock=ports.clock,
            killing=self._killing,
            pausing=self.pausing,
        )
        self._deadlines.others += [self._scheduling.appeared, self._idling.appeared]
        self._networking = Networking(
            store=ports.store,
            runtime=ports.runtime,
            guest=ports.guest,
            edge=ports.edge,
            clock=ports.clock,
            limits=limits,
            locks=locks,
            tasks=self._tasks,
        )
        self._reconciling = Reconciling(
            store=ports.store,
            runtime=ports.runtime,
            clock=ports.clock,
            limits=limits,
            tasks=self._tasks,
            creating=self._creating,
            pausing=self.pausing,
            snapshots=self.snapshots,
            killing=self._killing,
            networking=self._networking,
            pool=self.pool,
            warming=warming,
            reviving=self._reviving,
        )
        self._forgetting = Forgetting(store=ports.store, clock=ports.clock, limits=limits)
        self._probing = Probing(
            store=ports.store, guest=ports.guest, locks=locks, tasks=self._tasks, killing=self._killing
        )
        self._finding = Finding(store=ports.store, reading=self._reading, secret=secret)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """
        Bring rows and machines into agreement, then follow both.

        Live sandboxes are adopted before this returns.
        What has to be removed is removed behind it; ``settled`` waits for that.
        """
        await self._tasks.open()
        try:
            await self._reconciling.reconcile()
            self._tasks.run("follow the runtime", self._reconciling.follow)
            self._tasks.run("reap", self._deadlines.reap)
            self._tasks.run("schedule", self._scheduling.run)
            self._tasks.run("idle", self._idling.run)
            self._tasks.run("forget", self._forgetting.run)
            self.pool.start(self._tasks)
            self._open = True
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """
        Stop. Sandboxes live on; creates under way are undone, kills under way are finished or,
        when they do not finish in their time, left to the next start.
        """
        self._open = False
        self._creating.stop_all()
        self._reviving.stop_all()
        try:
            async with asyncio.timeout(self._limits.close_timeout.total_seconds()):
                await self.settled()
        except TimeoutError:
            log.warning("work left to the next start", jobs=len(self._tasks.jobs))
        finally:
            try:
                await self._tasks.close()
            finally:
                await self._ports.runtime.close()

    async def settled(self) -> None:
        """Wait until nothing is being created or removed."""
        while jobs := self._tasks.jobs:
            await asyncio.wait([job.outcome for job in jobs])

    async def kill_all(self, detail: str) -> None:
        """
        End every sandbox there is and let no new one begin, for when the home is taken down.

        Persistent ones are written down, and resumed by the next start.

        Raises:
            UnavailableError: something would not go in ``close_timeout``.
        """
        self._open = False
        self._creating.stop_all()
        self._reviving.stop_all()
        await self.pausing.stop_all()
        await self.snapshots.stop_all()
        await self._reconciling.park_all()
        await self._reconciling.end_all(End(reason=EndReason.KILLED, detail=detail))
        try:
            async with asyncio.timeout(self._limits.close_timeout.total_seconds()):
                await self.settled()
        except TimeoutError as error:
            left = await self._ports.runtime.remains()
            raise UnavailableError(
                f"{len(left)} sandboxes would not go", details=", ".join(left[:10])
            ) from error

    @property
    def volumes(self) -> Volumes:
        """The verbs of volumes."""
        return self._ports.volumes

    async def authenticate(self, untrusted_key: str | None) -> Actor:
        """
        Find out who calls.

        Raises:
            UnauthenticatedError: no key, or one that is not known.
        """
        return await access.authenticate(self._ports.api_keys, self._ports.clock, untrusted_key)

    async def create(self, actor: Actor, wish: CreateSandbox) -> Sandbox:
        """
        Create a sandbox; return when it runs and takes commands.

        A failed or cancelled create leaves nothing behind but a row that says why.

        Raises:
            InvalidArgumentError: timeout, limits, metadata or env outside their bounds.
            NotFoundError: ``template 'x' not found``, ``tag 't' does not exist for template 'x'``.
            ResourceExhaustedError: the most sandboxes exist, too many creates wait, or the host is full.
            AbortedError: somebody killed it while it was being created.
            UnavailableError: it did not come up.
            DeadlineExceededError: it did not come up in time.
        """
        if not self._open:
            raise UnavailableError("The server is stopping")
        wish = replace(wish, template=without_tag(wish.template))
        origin = await self.snapshots.find(actor, wish.template)
        template = await self.template(actor, origin.template_id if origin else wish.template)
        return await self._creating.create(actor, wish, template, origin)

    async def get(self, actor: Actor, untrusted_id: str, *, ended: bool = False) -> Sandbox:
        """
        Read a sandbox.

        Args:
            actor: who asks.
            untrusted_id: as the caller gave it, also in the old form ``<id>-<client id>``.
            ended: whether one that is being removed, or is gone, counts too.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: ``Sandbox "<id>" doesn't exist or you don't have access to it``.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        return await self._reading.get(actor, sandbox_id, statuses=ANY if ended else PRESENT)

    async def list(self, actor: Actor, filter: SandboxFilter, page: Page) -> SandboxPage:
        """
        List the actor's sandboxes; the filter's team is replaced by the actor's.

        A template may have a tag, as in a create; nothing is listed for one that does not exist.
        A filter without statuses means those that are not ended: creating and running.

        Raises:
            InvalidArgumentError: the page's limit is not 1 to 1000.
        """
        return await self._reading.list(actor, filter, page)

    async def count(self, actor: Actor, filter: SandboxFilter) -> int:
        """Count the actor's sandboxes, as ``list`` would give them."""
        return await self._reading.count(actor, filter)

    async def kill(self, actor: Actor, untrusted_id: str) -> Sandbox:
        """
        End a sandbox; return when nothing of it is left. Calls at the same time share the work.

        Also ends one that is still being created. The work goes on if the caller goes away.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: it is not there, or was ended before.
            UnavailableError: something would not go; it is tried again behind this call.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._reading.get(actor, sandbox_id, statuses=ALIVE)
        end = End(reason=EndReason.KILLED, detail=f"by key {actor.key_name!r}")
        if not await self._killing.begin(sandbox_id, end):
            raise not_there(sandbox_id)
        self._creating.stop(sandbox_id, end, killed_while_created())
        self.pausing.stop(sandbox_id)
        self.snapshots.stop(sandbox_id)
        await self._killing.removed(sandbox_id)
        return await self._ports.store.get_sandbox(sandbox_id)

    async def set_timeout(self, actor: Actor, untrusted_id: str, from_now: timedelta) -> Sandbox:
        """
        Set the deadline to so long from now, earlier or later than it was; 0: now.

        Raises:
            InvalidArgumentError: negative, longer than the longest, or the id has another form.
            NotFoundError: no such running sandbox.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._reading.get(actor, sandbox_id, statuses=RUNNING)
        return await self._deadlines.set_timeout(sandbox_id, from_now, self._reading.check(actor, RUNNING))

    async def refresh(self, actor: Actor, untrusted_id: str, from_now: timedelta) -> Sandbox:
        """
        Let the sandbox live at least so long from now; never shortens. Also what ``connect`` does.

        Raises:
            InvalidArgumentError: not positive, longer than the longest, or the id has another form.
            NotFoundError: no such running sandbox.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._reading.get(actor, sandbox_id, statuses=RUNNING)
        return await self._deadlines.refresh(sandbox_id, from_now, self._reading.check(actor, RUNNING))

    async def set_egress(self, actor: Actor, untrusted_id: str, egress: EgressPolicy) -> Sandbox:
        """
        Replace what a running sandbox may reach; on return nothing else is reached any more.

        Raises:
            InvalidArgumentError: no such policy is possible, or the id has another form.
            NotFoundError: no such running sandbox.
            UnavailableError: the host refused; the policy is kept, and tried again behind this call.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._reading.get(actor, sandbox_id, statuses=RUNNING)
        return await self._networking.set_egress(sandbox_id, egress, self._reading.check(actor, RUNNING))

    async def usage(self, actor: Actor, untrusted_id: str) -> Usage:
        """
        Read what a running sandbox uses now.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such running sandbox.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._reading.get(actor, sandbox_id, statuses=RUNNING)
        try:
            return await self._ports.runtime.usage(sandbox_id)
        except NotFoundError as error:
            raise not_there(sandbox_id) from error

    async def memory_kills(self, actor: Actor, untrusted_id: str) -> Sequence[ProcessKilledForMemory]:
        """
        List the last processes inside that were killed for memory, oldest first; also of an ended sandbox.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such sandbox.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._reading.get(actor, sandbox_id, statuses=ANY)
        return await self._ports.store.memory_kills(sandbox_id)

    async def templates(self, actor: Actor) -> Sequence[Template]:
        """List the templates that the actor can start from."""
        return await self._ports.templates.list()

    async def template(self, actor: Actor, name: str) -> Template:
        """
        Find a template by name or id, with or without a tag.

        Raises:
            NotFoundError: ``template 'x' not found``, ``tag 't' does not exist for template 'x'``.
        """
        if len(name) > MOST_TEMPLATE_NAME or not name.isprintable():
            raise NotFoundError(f"template {name[:MOST_TEMPLATE_NAME]!a} not found")
        bare, colon, _ = without_tag(name).partition(":")
        if not colon:
            return await self._ports.templates.get(bare)
        if await self.snapshots.find(actor, bare) is None:  # which has no other tags either
            await self._ports.templates.get(bare)
        raise no_such_tag(name)

    def access_token(self, sandbox_id: SandboxId) -> str:
        """Return what callers of a secured sandbox's daemon show: 64 hexadecimal digits, always the same."""
        return access.access_token(self._secret, sandbox_id)

    def traffic_token(self, sandbox: Sandbox | Route) -> str | None:
        """Return what clients of a sandbox's ports show; None: nobody needs to show anything."""
        if sandbox.ingress.public:
            return None
        sandbox_id = sandbox.id if isinstance(sandbox, Sandbox) else sandbox.sandbox_id
        return access.traffic_token(self._secret, sandbox_id)

    async def route(self, untrusted_id: str) -> Route:
        """
        Tell the edge where a running sandbox is, or one that traffic wakes, once it runs.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such running sandbox.
            AtollError: it was not woken, and why.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        try:
            return await self._reading.route(sandbox_id)
        except NotFoundError:
            await self.pausing.wake(sandbox_id)
        return await self._reading.route(sandbox_id)

    async def suspect(self, untrusted_id: str) -> None:
        """
        Hear of the edge that a running sandbox accepts no connection; one that hangs is ended behind this.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: there never was one.
        """
        await self._reconciling.suspect(parse_sandbox_id(untrusted_id))

    def silent(self, untrusted_id: str) -> None:
        """
        Hear from the edge that a guest answered nobody for long; one that hangs is ended behind this call.

        Raises:
            InvalidArgumentError: the id has another form.
            UnavailableError: the server stops.
        """
        self._probing.suspect(untrusted_id)

    async def egress_at(self, untrusted_address: str) -> Sandbox:
        """
        Tell the edge whose address this is, and so what may be reached from there.

        Raises:
            NotFoundError: no running sandbox has it.
        """
        return await self._reading.at_address(untrusted_address)

    async def route_by_token(self, untrusted_token: str) -> Route:
        """
        Tell the edge which running sandbox has this access token, and where it is.

        Raises:
            NotFoundError: none.
        """
        return await self._finding.by_token(untrusted_token)

    async def route_by_signature(self, untrusted: SignedFile) -> Route:
        """
        Tell the edge which running sandbox's token signed this, and where it is.

        Raises:
            NotFoundError: none.
        """
        return await self._finding.by_signature(untrusted)
