"""
Changes what running sandboxes may reach: the row first, then the machine.

The row is what should be. A machine that does not take it is tried again until it does, by this server or the
next one; the caller of the change goes away meanwhile without stopping that.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.rows import checking
from atoll.server.control.rows.changing import change
from atoll.server.control.turns.locks import Locks
from atoll.server.control.work.tasks import Tasks
from atoll.server.domain.egress import EgressPolicy, fingerprint
from atoll.server.domain.errors import AtollError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.guest import Guest
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Networking:
    """Replaces policies."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        guest: Guest,
        edge: Edge,
        clock: Clock,
        limits: ControlLimits,
        locks: Locks,
        tasks: Tasks,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._guest = guest
        self._edge = edge
        self._clock = clock
        self._limits = limits
        self._locks = locks
        self._tasks = tasks
        # Sandboxes whose machine has not taken their row yet, and is tried again.
        self._behind: set[SandboxId] = set()

    async def set_egress(
        self, sandbox_id: SandboxId, egress: EgressPolicy, check: Callable[[Sandbox], None]
    ) -> Sandbox:
        """
        Do what ``Control.set_egress`` promises, with a row that ``check`` does not refuse.

        A server that is killed in between applies the row when it starts again.
        """
        egress = checking.check_egress(egress, self._limits)
        if egress.proxy is not None:
            await self._edge.check_proxy(egress.proxy.host)

        def changed(row: Sandbox) -> Sandbox:
            check(row)
            checking.check_tokens_named(egress, row.tokens)
            return replace(row, egress=egress)

        row = await change(self._store, sandbox_id, changed)
        distrust = await self._have_trusted(row)
        # Two changes of one sandbox take turns there, and each applies what the row says then.
        await self._tasks.job(f"network rules of {sandbox_id}", lambda: self._apply(sandbox_id)).wait()
        log.info("network rules changed", sandbox_id=sandbox_id)
        if distrust is not None:
            raise distrust
        return row

    async def _have_trusted(self, row: Sandbox) -> AtollError | None:
        """Have the guest trust the edge if it will see it; one that does not still gets its rules."""
        if not row.egress.rules or row.address is None:
            return None
        try:
            async with asyncio.timeout(self._limits.configure_timeout.total_seconds()):
                await self._guest.trust_edge(Machine(sandbox_id=row.id, address=row.address))
        except (UnavailableError, TimeoutError) as error:
            failure = UnavailableError(
                "The rules apply, but the sandbox does not trust what it is shown for their names",
                details=str(error),
                resolution="Set them again.",
            )
            failure.__cause__ = error
            return failure
        return None

    async def catch_up(self, sandbox_id: SandboxId) -> None:
        """Have a machine that was adopted do what its row says; what does not work now is tried again."""
        with suppress(UnavailableError):  # logged
            await self._apply(sandbox_id, keep_known=True)

    async def _apply(self, sandbox_id: SandboxId, *, keep_known: bool = False) -> None:
        try:
            await self._attempt(sandbox_id, keep_known=keep_known)
        # Whatever it was: the row says what should be.
        except Exception as error:
            self._report(sandbox_id, error)
            if sandbox_id not in self._behind:
                self._behind.add(sandbox_id)
                self._tasks.job(f"network rules of {sandbox_id}, again", lambda: self._insist(sandbox_id))
            raise UnavailableError(
                f"The network rules of sandbox {sandbox_id} are not applied yet",
                details=str(error) or type(error).__name__,
                resolution="The server keeps trying; see its log.",
            ) from error

    async def _insist(self, sandbox_id: SandboxId) -> None:
        delay = self._limits.destroy_retry_delay
        try:
            while True:
                await self._clock.sleep_until(self._clock.now() + delay)
                try:
                    await self._attempt(sandbox_id)
                except Exception as error:
                    self._report(sandbox_id, error)
                    delay = min(2 * delay, self._limits.destroy_retry_delay_most)
                else:
                    return
        finally:
            self._behind.discard(sandbox_id)

    async def _attempt(self, sandbox_id: SandboxId, *, keep_known: bool = False) -> None:
        """Apply the row; connections of an edge that knows it already go on if ``keep_known``."""
        async with self._locks.hold(sandbox_id):
            row = await self._store.get_sandbox(sandbox_id)
            if row.status is not Status.RUNNING:
                return
            async with asyncio.timeout(self._limits.forget_timeout.total_seconds()):
                await self._runtime.set_egress(sandbox_id, row.egress.fenced())
                known = fingerprint(row.egress) if keep_known else ""
                await self._edge.forget_egress(sandbox_id, unless=known)

    def _report(self, sandbox_id: SandboxId, error: Exception) -> None:
        log.warning(
            "network rules not applied",
            sandbox_id=sandbox_id,
            error=str(error) or type(error).__name__,
            exc_info=not isinstance(error, AtollError | TimeoutError),
        )
