"""Changes what running sandboxes may reach: the row first, then the machine."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from atoll.server.control import checking
from atoll.server.control.changing import change
from atoll.server.control.limits import ControlLimits
from atoll.server.control.locks import Locks
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.edge import Edge
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Networking:
    """Replaces policies."""

    def __init__(
        self, *, store: Store, runtime: Runtime, edge: Edge, limits: ControlLimits, locks: Locks
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._edge = edge
        self._limits = limits
        self._locks = locks

    async def set_egress(
        self, sandbox_id: SandboxId, egress: EgressPolicy, check: Callable[[Sandbox], None]
    ) -> Sandbox:
        """
        Do what ``Control.set_egress`` promises, with a row that ``check`` does not refuse.

        A server that is killed in between applies the row when it starts again.
        """
        egress = checking.check_egress(egress, self._limits)

        def changed(row: Sandbox) -> Sandbox:
            check(row)
            return replace(row, egress=egress)

        # Two changes of one sandbox take turns, and so the machine has what the row says.
        async with self._locks.hold(sandbox_id):
            row = await change(self._store, sandbox_id, changed)
            await self._runtime.set_egress(sandbox_id, egress)
            await self._edge.forget_egress(sandbox_id)
        log.info("network rules changed", sandbox_id=sandbox_id)
        return row
