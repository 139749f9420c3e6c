"""
The server dies at every step of packing, dropping, unpacking, sweeping; the next one loses nothing.

Every call of the rows and of the fake machines is a point, and of the real program that packs each, before it
and after.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.crashes import Points, life
from fakes.world import ALICE, World, outcome, wish
from support.storing import LIMITS, PROGRAM, noise

from atoll.server.control.service import Control
from atoll.server.control.upkeep.storing import Storing
from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.snapshot import SnapshotId
from atoll.server.host.blobs import BlobsProgram, BlobStore
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.runtimes.kept import CheckpointFiles
from atoll.server.runtimes.packing import Packer

# A server's death at each of some hundred points: for who has time.
pytestmark = pytest.mark.heavy

MEMORY = CheckpointKind.MEMORY
HOUR = timedelta(hours=1)
STORAGE = replace(LIMITS, sweep_every=timedelta(0), collect_every=timedelta(0))
PARTS = 5
CONTENT = noise(7, 40)


class PointedBlobs(BlobsProgram):
    """The real program, whose every call is a point, before it and after."""

    def __init__(self, directory: Path, faults: Faults) -> None:
        super().__init__(PROGRAM, BlobStore(directory=directory, reserve_bytes=0))
        self._faults = faults

    async def _call(self, request: Mapping[str, Any], *, low: bool, timeout_s: float) -> dict[str, Any]:
        await self._faults.at(f"{request['verb']}:before")
        result = await super()._call(request, low=low, timeout_s=timeout_s)
        await self._faults.at(f"{request['verb']}:after")
        return result


class StoringWorld(World):
    """One whose checkpoints are packed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory)

    def renew(self, faults: Faults) -> None:
        super().renew(faults)
        blobs = PointedBlobs(self.directory / "blobs", faults)
        self.checkpoints = CheckpointFiles(self.directory / "checkpoints", blobs=blobs, limits=STORAGE)
        self.packer = Packer(self.checkpoints, blobs, limits=STORAGE, clock=SystemClock())

    def small(self) -> Storing:
        return self.storing(self.packer, STORAGE)

    def memory(self, sandbox_id: SandboxId) -> Path:
        return self.directory / "machines" / sandbox_id / "memory"

    def runs(self) -> list[Path]:
        return list((self.directory / "blobs").glob("??/*"))


@dataclass
class Told:
    """What the clients of a server were told."""

    paused: set[SandboxId] = field(default_factory=set)
    snapshots: set[SnapshotId] = field(default_factory=set)


async def script(world: StoringWorld, control: Control, told: Told) -> None:
    """Take a snapshot, pause, pack both, create from one, resume the other, delete, pause again."""
    storing = world.small()
    one = await control.create(ALICE, wish(timeout=HOUR))
    world.memory(one.id).write_bytes(CONTENT)
    snapshot = await control.snapshots.take(ALICE, one.id, None, MEMORY)
    told.snapshots.add(snapshot.id)
    await control.pausing.pause(ALICE, one.id, MEMORY)
    told.paused.add(one.id)
    await control.settled()
    await storing.work()

    child = await control.create(ALICE, wish(template=snapshot.id, timeout=HOUR))
    assert world.memory(child.id).read_bytes() == CONTENT
    await storing.work()
    told.paused.discard(one.id)
    await control.pausing.connect(ALICE, one.id, HOUR)
    assert world.memory(one.id).read_bytes() == CONTENT
    # Its old checkpoint goes behind the answer, and only what went makes something to sweep.
    await control.settled()
    await storing.work()
    told.snapshots.discard(snapshot.id)
    await control.snapshots.delete(ALICE, snapshot.id)
    await control.pausing.pause(ALICE, child.id, MEMORY)
    told.paused.add(child.id)
    await control.settled()
    await storing.work()


async def check(world: StoringWorld, control: Control, told: Told) -> None:
    """Use all that was acknowledged, then remove it; nothing stays."""
    await control.settled()
    await world.assert_agreement()
    storing = world.small()
    await storing.work()
    for snapshot_id in told.snapshots:
        child = await control.create(ALICE, wish(template=snapshot_id, timeout=HOUR))
        assert world.memory(child.id).read_bytes() == CONTENT
    for sandbox_id in told.paused:
        await control.pausing.connect(ALICE, sandbox_id, HOUR)
        assert world.memory(sandbox_id).read_bytes() == CONTENT
    for sandbox_id in await world.rows():
        failed = await outcome(control.kill(ALICE, sandbox_id))
        assert not isinstance(failed, Exception) or isinstance(failed, NotFoundError)
    for snapshot in await world.snapshots.all_snapshots():
        await control.snapshots.delete(ALICE, snapshot.id)
    await control.settled()
    await storing.work()
    assert world.checkpoints.entries() == []
    assert world.runs() == []


async def points_of_the_script(directory: Path) -> int:
    world = StoringWorld(directory)
    points = Points()
    await life(world, points, lambda control: script(world, control, Told()))
    assert world.faults.passed["pack:after"] >= 3
    assert world.faults.passed["unpack:after"] >= 2
    assert world.faults.passed["sweep:after"] >= 3
    return points.count


# Each step is a life of a server, with some calls of the program: all of them take minutes.
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.heavy) for part in range(1, PARTS))]
)
async def test_nothing_is_lost_and_nothing_stays(tmp_path: Path, part: int) -> None:
    count = await points_of_the_script(tmp_path / "whole")
    assert count > 60
    for at in range(1 + part, count + 1, PARTS):
        world, told = StoringWorld(tmp_path / str(at)), Told()
        await life(world, Points(at, Points.die), lambda control, w=world, t=told: script(w, control, t))
        world.renew(Faults())

        async with world.server() as control:
            await check(world, control, told)
