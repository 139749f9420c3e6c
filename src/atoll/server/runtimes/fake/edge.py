"""An edge without routes."""

from datetime import timedelta

from typing_extensions import override

from atoll.server.domain.ids import SandboxId
from atoll.server.ports.edge import Edge
from atoll.server.runtimes.fake.faults import Faults


class FakeEdge(Edge):
    """Remembers whom it forgot."""

    def __init__(self, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.forgotten: list[SandboxId] = []
        # For whom it asks at the next request.
        self.asking: list[SandboxId] = []
        # What is told of those that somebody calls; of the others, that nobody does.
        self.busy: dict[SandboxId, timedelta] = {}
        self.forgotten_egress: list[SandboxId] = []

    @override
    async def forget(self, sandbox_id: SandboxId) -> None:
        await self.faults.at("forget")
        self.forgotten.append(sandbox_id)

    @override
    async def ask_again(self, sandbox_id: SandboxId) -> None:
        await self.faults.at("ask again")
        self.asking.append(sandbox_id)

    @override
    async def retire(self, sandbox_id: SandboxId, *, idle_for: timedelta) -> timedelta | None:
        await self.faults.at("retire")
        return self.busy.get(sandbox_id)

    @override
    async def forget_egress(self, sandbox_id: SandboxId, *, unless: str = "") -> None:
        await self.faults.at("forget egress")
        # It never asked for a policy, so it knows none.
        if not unless:
            self.forgotten_egress.append(sandbox_id)

    @override
    async def check_proxy(self, host: str) -> None:
        await self.faults.at("check proxy")
