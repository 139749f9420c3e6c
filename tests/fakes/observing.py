"""What sandboxes used, in memory, over control in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from atoll.server.control.requests import Actor
from atoll.server.control.watching.observing import Observing
from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.metrics import Point, Sample, points
from atoll.server.domain.sandbox import Sandbox
from fakes.control import FakeControl


@dataclass
class FakeObserving(Observing):
    """One sample of each sandbox, taken when it is asked for: a second of processor since its start."""

    control: FakeControl

    async def metrics(
        self,
        actor: Actor,
        untrusted_id: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> tuple[Sandbox, Sequence[Point]]:
        sandbox = await self.control.get(actor, untrusted_id, ended=True)
        now = self.control.clock.now()
        if (start is not None and now < start) or (end is not None and end < now):
            return sandbox, []
        usage = await self.control.usage(actor, untrusted_id)
        sample = Sample(
            at=now,
            cpu_seconds=usage.cpu_seconds,
            memory_bytes=usage.memory_bytes,
            cache_bytes=usage.cache_bytes,
            disk_bytes=usage.disk_bytes,
        )
        began = sandbox.started_at or sandbox.created_at
        return sandbox, points([sample], began=began, most=1, since=began)

    async def last_metrics(
        self, actor: Actor, untrusted_ids: Sequence[str]
    ) -> Mapping[SandboxId, tuple[Sandbox, Point]]:
        found = {}
        for untrusted_id in untrusted_ids:
            try:
                sandbox, [point] = await self.metrics(actor, untrusted_id)
            except NotFoundError:
                continue
            found[sandbox.id] = (sandbox, point)
        return found
