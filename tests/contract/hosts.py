"""
The runtimes that tests/contract/test_runtime.py runs on, each on a host of its own.

A new runtime gets a function here, and an entry in ``HOSTS``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.server.domain.ids import SandboxId, TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.ports.runtime import Runtime
from atoll.server.runtimes.fake.runtime import FakeRuntime

TEMPLATE = TemplateId("base-000000000000")
LIMITS = Limits(cpus=0.5, memory_bytes=128 * 1024**2, processes=128, disk_bytes=64 * 1024**2)


@dataclass(frozen=True, kw_only=True)
class RuntimeHost:
    """
    A machine's worth of one runtime.

    Attributes:
        make: makes a runtime object; each has the same home, as servers that follow each other have.
        template: one that is built there.
        end: lets a machine end by itself, as seen by the runtime object that watches it.
        end_unseen: lets a machine end while no runtime object is open.
    """

    make: Callable[[], Runtime]
    template: TemplateId
    end: Callable[[Runtime, SandboxId], Awaitable[None]]
    end_unseen: Callable[[SandboxId], Awaitable[None]]


@asynccontextmanager
async def fake_host(directory: Path) -> AsyncIterator[RuntimeHost]:
    """Give directories for machines."""

    def make() -> FakeRuntime:
        return FakeRuntime(directory, templates=frozenset({TEMPLATE}))

    async def end(runtime: Runtime, sandbox_id: SandboxId) -> None:
        assert isinstance(runtime, FakeRuntime)
        runtime.end(sandbox_id)

    async def end_unseen(sandbox_id: SandboxId) -> None:
        make().end_unseen(sandbox_id)

    yield RuntimeHost(make=make, template=TEMPLATE, end=end, end_unseen=end_unseen)


@asynccontextmanager
async def gvisor_host(directory: Path) -> AsyncIterator[RuntimeHost]:
    """Give a home with slots, a template and runsc."""
    pytest.skip("gVisor's host is not put together here yet: it needs slots and a built template")
    yield  # type: ignore[unreachable]


HOSTS: dict[str, Callable[[Path], AbstractAsyncContextManager[RuntimeHost]]] = {
    "fake": fake_host,
    "gvisor": gvisor_host,
}
