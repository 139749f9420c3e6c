"""
Control, as the dialects see it: every verb of a sandbox behind one object.

Calls take who asks (``Actor``) and plain data, and raise ``domain.errors``.
The verbs themselves live beside this file, one concern each; nothing here decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor, CreateSandbox, Route, SandboxPage
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import ProcessKilledForMemory, Usage
from atoll.server.domain.sandbox import Sandbox
from atoll.server.domain.template import Template
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.guest import Guest
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Page, SandboxFilter, Store
from atoll.server.ports.templates import Templates


@dataclass(frozen=True, kw_only=True)
class Ports:
    """
    What control works with.

    Attributes:
        store: opened and closed by whoever made it.
        runtime: opened and closed by control.
    """

    store: Store
    runtime: Runtime
    guest: Guest
    edge: Edge
    templates: Templates
    clock: Clock


class Control:
    """
    Creates, finds and ends sandboxes, and keeps rows and machines in agreement.

    Open and close it in one task: it owns a task group, and an error in its background work
    cancels that task, because a server that no longer follows its machines must not go on.
    """

    def __init__(
        self, ports: Ports, *, secret: bytes, dns_servers: tuple[str, ...], limits: ControlLimits
    ) -> None:
        """
        Args:
            ports: everything outside.
            secret: what access tokens derive from; 32 bytes.
            dns_servers: name servers that sandboxes use, as seen from inside.
            limits: how much and how long.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    async def close(self) -> None:
        """
        Stop. Sandboxes live on; creates under way are undone, kills under way are finished or,
        when they do not finish in their time, left to the next start.
        """
        raise NotImplementedError

    async def settled(self) -> None:
        """Wait until nothing is being created or removed."""
        raise NotImplementedError

    async def authenticate(self, untrusted_key: str | None) -> Actor:
        """
        Find out who calls.

        Raises:
            UnauthenticatedError: no key, or one that is not known.
        """
        raise NotImplementedError

    async def create(self, actor: Actor, wish: CreateSandbox) -> Sandbox:
        """
        Create a sandbox; return when it runs and takes commands.

        A failed or cancelled create leaves nothing behind but a row that says why.

        Raises:
            InvalidArgumentError: timeout, limits, metadata or env outside their bounds.
            NotFoundError: ``template 'x' not found``.
            ResourceExhaustedError: the most sandboxes exist, too many creates wait, or the host is full.
            AbortedError: somebody killed it while it was being created.
            UnavailableError: it did not come up.
            DeadlineExceededError: it did not come up in time.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    async def list(self, actor: Actor, filter: SandboxFilter, page: Page) -> SandboxPage:
        """
        List the actor's sandboxes; the filter's team is replaced by the actor's.

        A filter without statuses means those that are not ended: creating and running.

        Raises:
            InvalidArgumentError: the page's limit is not 1 to 1000.
        """
        raise NotImplementedError

    async def count(self, actor: Actor, filter: SandboxFilter) -> int:
        """Count the actor's sandboxes, as ``list`` would give them."""
        raise NotImplementedError

    async def kill(self, actor: Actor, untrusted_id: str) -> Sandbox:
        """
        End a sandbox; return when nothing of it is left. Calls at the same time share the work.

        Also ends one that is still being created. The work goes on if the caller goes away.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: it is not there, or was ended before.
            UnavailableError: something would not go; it is tried again behind this call.
        """
        raise NotImplementedError

    async def set_timeout(self, actor: Actor, untrusted_id: str, from_now: timedelta) -> Sandbox:
        """
        Set the deadline to so long from now, earlier or later than it was; 0: now.

        Raises:
            InvalidArgumentError: negative, longer than the longest, or the id has another form.
            NotFoundError: no such running sandbox.
        """
        raise NotImplementedError

    async def refresh(self, actor: Actor, untrusted_id: str, from_now: timedelta) -> Sandbox:
        """
        Let the sandbox live at least so long from now; never shortens. Also what ``connect`` does.

        Raises:
            InvalidArgumentError: not positive, longer than the longest, or the id has another form.
            NotFoundError: no such running sandbox.
        """
        raise NotImplementedError

    async def usage(self, actor: Actor, untrusted_id: str) -> Usage:
        """
        Read what a running sandbox uses now.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such running sandbox.
        """
        raise NotImplementedError

    async def memory_kills(self, actor: Actor, untrusted_id: str) -> Sequence[ProcessKilledForMemory]:
        """
        List the processes inside that were killed for memory since this server started, the last few.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such sandbox.
        """
        raise NotImplementedError

    async def templates(self, actor: Actor) -> Sequence[Template]:
        """List the templates that the actor can start from."""
        raise NotImplementedError

    async def template(self, actor: Actor, name: str) -> Template:
        """
        Find a template by name or id.

        Raises:
            NotFoundError: ``template 'x' not found``.
        """
        raise NotImplementedError

    def access_token(self, sandbox_id: SandboxId) -> str:
        """Return what callers of a secured sandbox's daemon show: 64 hexadecimal digits, always the same."""
        raise NotImplementedError

    async def route(self, untrusted_id: str) -> Route:
        """
        Tell the edge where a running sandbox is.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: no such running sandbox.
        """
        raise NotImplementedError
