"""The task that keeps slots ready, with a kernel that is played."""

import asyncio
import contextlib
from collections.abc import Collection
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import ResourceExhaustedError, UnavailableError
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.network import slots
from atoll.server.network.names import AddressRange
from atoll.server.network.slots import SlotPool


class Kernel:
    """Slots, fence and packet filter: all that is asked of the kernel."""

    def __init__(self) -> None:
        self.there: set[int] = set()
        self.refuses = 0

    def make(self, number: int) -> None:
        if self.refuses:
            self.refuses -= 1
            raise UnavailableError("no memory")
        self.there.add(number)

    def remove(self, number: int) -> None:
        self.there.discard(number)

    def remove_all(self, numbers: Collection[int]) -> None:
        self.there -= set(numbers)

    def numbers(self) -> set[int]:
        return set(self.there)

    def __getattr__(self, name: str) -> Any:
        """Whatever else is said to it."""
        return lambda *_, **__: None


class QuietHost:
    """Its links never change."""

    def __init__(self, table: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def changed(self) -> None:
        await asyncio.Event().wait()


class PlayedPool(SlotPool):
    """A pool in front of the played kernel."""

    kernel: Kernel

    def _recover(self) -> None:
        self._maker = self._fence = self.kernel  # type: ignore[assignment]
        self._records.read()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(slots, "Nftables", lambda: made)
    monkeypatch.setattr(slots, "HostWatch", QuietHost)
    monkeypatch.setattr(PlayedPool, "kernel", made, raising=False)
    monkeypatch.setattr(slots, "_AGAIN_S", 0.01)
    return made


def pool_of(directory: Path, network: str, ready: int) -> PlayedPool:
    return PlayedPool(
        "abcdef",
        AddressRange.of("abcdef", IPv4Network(network)),
        slots_dir=directory / "slots",
        run_dir=directory,
        dns_port=53,
        egress_port=54,
        ready=ready,
    )


async def until_there_are(kernel: Kernel, number: int) -> None:
    async with asyncio.timeout(10):
        while len(kernel.there) != number:
            await asyncio.sleep(0.001)


async def acquired(pool: PlayedPool) -> SandboxId:
    """Take a slot, also where the last one is just being made."""
    sandbox_id = new_sandbox_id()
    async with asyncio.timeout(10):
        while await pool.find(sandbox_id) is None:
            with contextlib.suppress(ResourceExhaustedError):
                await pool.acquire(sandbox_id, EgressPolicy())
            await asyncio.sleep(0.001)
    return sandbox_id


async def test_slots_are_made_again_after_the_range_was_used_up(tmp_path: Path, kernel: Kernel) -> None:
    pool = pool_of(tmp_path, "10.1.2.0/29", ready=1)
    size = AddressRange.of("abcdef", IPv4Network("10.1.2.0/29")).size
    await pool.open()
    try:
        held = [await acquired(pool) for _ in range(size)]
        with pytest.raises(ResourceExhaustedError):
            await pool.acquire(new_sandbox_id(), EgressPolicy())
        for sandbox_id in held:
            await pool.release(sandbox_id)
        assert kernel.there == set()

        await pool.acquire(new_sandbox_id(), EgressPolicy())

        # The one that is held, and one that is ready.
        await until_there_are(kernel, 2)
    finally:
        await pool.close()


async def test_while_slots_are_taken_only_a_few_are_made_again_and_then_the_others(
    tmp_path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "_CALM_S", 3600)
    pool = pool_of(tmp_path, "10.1.2.0/24", ready=8)
    await pool.open()
    try:
        await until_there_are(kernel, 8)
        await take(pool, 6)
        # Six are held, and two of the eight were left.
        await until_there_are(kernel, 6 + slots._PROMPTLY)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(kernel.there) == 6 + slots._PROMPTLY

        monkeypatch.setattr(slots, "_CALM_S", 0.01)
        await take(pool, 1)

        await until_there_are(kernel, 7 + 8)
    finally:
        await pool.close()


async def take(pool: PlayedPool, number: int) -> None:
    for _ in range(number):
        await pool.acquire(new_sandbox_id(), EgressPolicy())


async def test_slots_are_made_again_after_the_kernel_refused(tmp_path: Path, kernel: Kernel) -> None:
    kernel.refuses = 3
    pool = pool_of(tmp_path, "10.1.2.0/24", ready=2)
    await pool.open()
    try:
        await until_there_are(kernel, 2)
    finally:
        await pool.close()
