"""What is packed, swept and collected behind everybody else."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fakes.world import ALICE, World, outcome, wish

from atoll.server.control.service import Control
from atoll.server.control.storage_limits import StorageLimits
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    FailedPreconditionError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.keys import KeyKind
from atoll.server.domain.storage import Kind
from atoll.server.host.blobs import BlobsProgram, BlobStore
from atoll.server.ports.checkpoints import Packing
from atoll.server.runtimes.images import MANIFEST
from atoll.server.runtimes.packing import Packer

HOME = replace(ALICE, kind=KeyKind.HOME)
SECOND = timedelta(seconds=1)


class Steps(Packing):
    """Writes down what it is asked for."""

    def __init__(self, waiting: int = 0, error: Exception | None = None) -> None:
        self.waiting = waiting
        self.error = error
        self.asked: list[str] = []

    async def pack_next(self) -> bool:
        self.asked.append("pack")
        if self.error is not None:
            raise self.error
        self.waiting -= 1
        return self.waiting >= 0

    async def drop_raw(self) -> None:
        self.asked.append("drop")

    async def sweep(self) -> None:
        self.asked.append("sweep")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def control(world: World) -> AsyncIterator[Control]:
    async with world.server() as made:
        yield made


async def test_one_after_the_other_is_packed_and_raw_copies_are_dropped_between(world: World) -> None:
    steps = Steps(waiting=2)

    await world.storing(steps).work()

    assert steps.asked == ["pack", "drop", "pack", "drop", "pack", "drop", "sweep"]


async def test_who_collects_waits_for_one_pack_and_not_for_all(world: World, control: Control) -> None:
    collected: list[asyncio.Task[object]] = []

    class Many(Steps):
        async def pack_next(self) -> bool:
            if not collected:
                collected.append(asyncio.create_task(storing.collect(HOME, dry=True)))
                await asyncio.sleep(0)
            elif len(self.asked) == 2:
                # It came between the first and the second.
                self.asked.append("collected" if collected[0].done() else "not collected")
            return await super().pack_next()

    steps = Many(waiting=3)
    storing = world.storing(steps)

    await storing.work()
    await collected[0]

    assert steps.asked[:4] == ["pack", "drop", "collected", "pack"]


async def test_a_pack_that_fails_keeps_nobody_from_dropping_and_sweeping(world: World) -> None:
    for error in (ResourceExhaustedError("full"), FailedPreconditionError("damaged")):
        steps = Steps(error=error)

        await world.storing(steps).work()

        assert steps.asked == ["pack", "drop", "sweep"]


async def test_runs_are_swept_now_and_then(world: World) -> None:
    steps = Steps()
    storing = world.storing(steps, StorageLimits(sweep_every=10 * SECOND))

    for _ in range(21):
        await storing.work()
        world.clock.advance(SECOND)

    assert steps.asked.count("sweep") == 3


async def test_only_the_homes_own_key_collects(world: World, control: Control) -> None:
    with pytest.raises(PermissionDeniedError):
        await world.storing().collect(ALICE, dry=True)

    assert (await world.storing().collect(HOME, dry=True)).leftovers == ()


async def test_what_rows_name_stays_and_everything_else_goes(world: World, control: Control) -> None:
    paused = await control.create(ALICE, wish())
    running = await control.create(ALICE, wish())
    await control.pausing.pause(ALICE, paused.id, CheckpointKind.MEMORY)
    snapshot = await control.snapshots.take(ALICE, running.id, None, CheckpointKind.MEMORY)
    await control.settled()
    world.checkpoints.pin("pinned")
    for name in ("stray", ".half-stray", "pinned", ".half-pinned", f".half-{snapshot.id}"):
        world.checkpoints.path(name).mkdir()
        (world.checkpoints.path(name) / "pages.img").write_bytes(b"x" * 5000)
    there = {path.name for path in world.checkpoints.entries()}
    storing = world.storing()

    dry = await storing.collect(HOME, dry=True)
    assert {path.name for path in world.checkpoints.entries()} == there
    found = await storing.collect(HOME, dry=False)

    assert found == dry
    assert {(one.kind, one.name) for one in found.leftovers} == {
        (Kind.CHECKPOINT, "stray"), (Kind.HALF, ".half-stray"),
    }  # fmt: skip
    assert found.size_bytes >= 2 * 5000
    assert {path.name for path in world.checkpoints.entries()} == there - {"stray", ".half-stray"}
    assert (await storing.collect(HOME, dry=False)).leftovers == ()
    await control.pausing.connect(ALICE, paused.id, timedelta(minutes=1))


async def test_it_is_collected_by_itself_when_its_time_has_come(world: World, control: Control) -> None:
    storing = world.storing(limits=StorageLimits(collect_every=timedelta(hours=1)))
    stray = world.checkpoints.path("stray")
    stray.mkdir()

    await storing.work()
    assert stray.exists()
    world.clock.advance(timedelta(hours=1))
    await storing.work()

    assert not stray.exists()


async def test_a_snapshot_that_is_being_written_is_not_collected(world: World, control: Control) -> None:
    row = await control.create(ALICE, wish())
    world.faults.hang("checkpoint:2")
    taking = control.snapshots.take(ALICE, row.id, None, CheckpointKind.MEMORY)

    job = asyncio.ensure_future(outcome(taking))
    await world.faults.reached("checkpoint:2")

    found = await world.storing().collect(HOME, dry=False)

    assert found.leftovers == ()
    job.cancel()
    await asyncio.wait([job])


async def test_a_packer_that_cannot_be_started_now_is_tried_again_with_the_same_checkpoint(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await control.create(ALICE, wish())
    await control.pausing.pause(ALICE, sandbox.id, CheckpointKind.MEMORY)
    await control.settled()
    (path,) = world.checkpoints.entries()
    tried = 0

    async def refused(*argv: str, **_: object) -> None:
        nonlocal tried
        tried += 1
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    program = BlobsProgram(Path("atoll-blobs"), BlobStore(directory=world.directory, reserve_bytes=0))
    os.utime(path / MANIFEST, (1000, 1000))
    limits = StorageLimits(raw_bytes=2**40, reserve_bytes=0, sweep_every=timedelta(days=1))
    packer = Packer(world.checkpoints, program, limits=limits, clock=world.clock)
    storing = world.storing(packer, limits)

    await storing.work()
    # The pack, and the first sweep.
    assert tried == 2

    await storing.work()
    assert tried == 3
    with pytest.raises(UnavailableError) as caught:
        await packer.pack_next()
    assert "cannot be started" in caught.value.details
