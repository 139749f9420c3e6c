"""
Control, as the dialects see it: every verb of a sandbox behind one object.

Calls take who asks (``Actor``) and plain data, and raise ``domain.errors``.
The verbs themselves live in the folders beside this file, one concern each; nothing here decides.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog

from atoll.server.control.lifecycle.creating import killed_while_created
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.killing import End
from atoll.server.control.owned.volumes import Volumes
from atoll.server.control.parts import Ports, assemble
from atoll.server.control.requests import Actor, CreateSandbox, Route, SandboxPage
from atoll.server.control.rows import access
from atoll.server.control.rows.reading import PRESENT, not_there
from atoll.server.control.rows.room import ALIVE
from atoll.server.control.upkeep.parking import Parked
from atoll.server.control.warm.pool import PoolLimits
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.domain.machine import ProcessKilledForMemory, Usage
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.domain.template import Template, no_such_tag, without_tag
from atoll.server.ports.store import Page, SandboxFilter

log = structlog.get_logger(__name__)

ANY = frozenset(Status)
RUNNING = frozenset({Status.RUNNING})
# Longer names name nothing; they would only make the error long.
MOST_TEMPLATE_NAME = 128


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
        revives: bool = True,
    ) -> None:
        """
        Args:
            ports: everything outside.
            secret: what access tokens derive from; 32 bytes.
            dns_servers: name servers that sandboxes use, as seen from inside.
            limits: how much and how long.
            pool: how many machines wait to be claimed.
            revives: whether what fell, or was written down, is brought back; not by who takes all down.
        """
        self._ports = ports
        self._secret = secret
        self._limits = limits
        self._open = False
        self._parts = assemble(ports, secret=secret, dns_servers=dns_servers, limits=limits, pool=pool)
        self._tasks = self._parts.tasks
        if not revives:
            self._parts.reviving.stop_all()
        self.pool = self._parts.pool
        self.pausing = self._parts.pausing
        self.routing = self._parts.routing
        self.settling = self._parts.settling
        self.admission = self._parts.admission
        self.snapshots = self._parts.snapshots

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
            await self._parts.reconciling.reconcile()
            self._tasks.run("follow the runtime", self._parts.reconciling.follow)
            self._tasks.run("reap", self._parts.deadlines.reap)
            self._tasks.run("schedule", self._parts.scheduling.run)
            self._tasks.run("idle", self._parts.idling.run)
            self._tasks.run("forget", self._parts.forgetting.run)
            self._tasks.run("seal", self._parts.sealing.run)
            self._parts.refilling.start(self._tasks)
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
        self._parts.creating.stop_all()
        self._parts.reviving.stop_all()
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
        await self._parts.closing.settled()

    async def park(self) -> Parked:
        """
        Write down what is persistent and let nothing new begin, for when the machine stops; the next start
        resumes it. Everything else runs on, and so does what is not written down in ``park_timeout``.
        """
        self._open = False
        return await self._parts.closing.park()

    async def kill_all(self, detail: str, *, force: bool = False) -> None:
        """
        End every sandbox there is and let no new one begin, for when the home is taken down.

        Persistent ones are written down, and resumed by the next start.

        Args:
            detail: why, for the rows.
            force: whether persistent ones end, too, that cannot be written down. They come back from their
                last snapshot, or anew.

        Raises:
            FailedPreconditionError: without force: a persistent one cannot be written down. All that is not
                persistent runs on, and it, too.
            UnavailableError: something would not go in ``close_timeout``.
        """
        self._open = False
        await self._parts.closing.kill_all(detail, force=force)

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
        try:
            return await self._parts.creating.create(actor, wish, template, origin)
        except FailedPreconditionError as error:
            if origin is None or await self.snapshots.find(actor, origin.id) is not None:
                raise
            # What was deleted while it was read looks damaged.
            raise NotFoundError(f"template {wish.template!r} not found", details=str(error)) from error

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
        return await self._parts.reading.get(actor, sandbox_id, statuses=ANY if ended else PRESENT)

    async def list(self, actor: Actor, filter: SandboxFilter, page: Page) -> SandboxPage:
        """
        List the actor's sandboxes; the filter's team is replaced by the actor's.

        A template may have a tag, as in a create; nothing is listed for one that does not exist.
        A filter without statuses means those that are not ended: creating and running.

        Raises:
            InvalidArgumentError: the page's limit is not 1 to 1000.
        """
        return await self._parts.reading.list(actor, filter, page)

    async def count(self, actor: Actor, filter: SandboxFilter) -> int:
        """Count the actor's sandboxes, as ``list`` would give them."""
        return await self._parts.reading.count(actor, filter)

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
        await self._parts.reading.get(actor, sandbox_id, statuses=ALIVE)
        end = End(reason=EndReason.KILLED, detail=f"by key {actor.key_name!r}")
        if not await self._parts.killing.begin(sandbox_id, end):
            raise not_there(sandbox_id)
        self._parts.creating.stop(sandbox_id, end, killed_while_created())
        self.pausing.stop(sandbox_id)
        self.snapshots.stop(sandbox_id)
        await self._parts.killing.removed(sandbox_id)
        return await self._ports.store.get_sandbox(sandbox_id)

    async def set_timeout(self, actor: Actor, untrusted_id: str, from_now: timedelta) -> Sandbox:
        """
        Set the deadline to so long from now, earlier or later than it was; 0: now.

        Raises:
            InvalidArgumentError: negative, longer than the longest, or the id has another form.
            NotFoundError: no such running sandbox.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._parts.reading.get(actor, sandbox_id, statuses=RUNNING)
        return await self._parts.deadlines.set_timeout(
            sandbox_id, from_now, self._parts.reading.check(actor, RUNNING)
        )

    async def refresh(self, actor: Actor, untrusted_id: str, from_now: timedelta) -> Sandbox:
        """
        Let the sandbox live at least so long from now; never shortens. Also what ``connect`` does.

        Raises:
            InvalidArgumentError: not positive, longer than the longest, or the id has another form.
            NotFoundError: no such running sandbox.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._parts.reading.get(actor, sandbox_id, statuses=RUNNING)
        return await self._parts.deadlines.refresh(
            sandbox_id, from_now, self._parts.reading.check(actor, RUNNING)
        )

    async def set_egress(self, actor: Actor, untrusted_id: str, egress: EgressPolicy) -> Sandbox:
        """
        Replace what a running sandbox may reach; on return nothing else is reached any more.

        Raises:
            InvalidArgumentError: no such policy is possible, or the id has another form.
            NotFoundError: no such running sandbox.
            UnavailableError: the host refused; the policy is kept, and tried again behind this call.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._parts.reading.get(actor, sandbox_id, statuses=RUNNING)
        return await self._parts.networking.set_egress(
            sandbox_id, egress, self._parts.reading.check(actor, RUNNING)
        )

    async def usage(self, actor: Actor, untrusted_id: str) -> Usage:
        """
        Read what a running sandbox uses now.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such running sandbox.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        await self._parts.reading.get(actor, sandbox_id, statuses=RUNNING)
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
        await self._parts.reading.get(actor, sandbox_id, statuses=ANY)
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
