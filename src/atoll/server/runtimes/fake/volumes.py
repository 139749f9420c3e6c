"""Volumes as plain directories; their size bounds nothing."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import VolumeId
from atoll.server.domain.volume import Volume
from atoll.server.ports.volumes import VolumeFiles
from atoll.server.runtimes.fake.faults import Faults


class FakeVolumes(VolumeFiles):
    """Keeps volumes as directories below one; passes "volume:make" and "volume:remove" in ``faults``."""

    def __init__(self, directory: Path, *, faults: Faults | None = None) -> None:
        """
        Args:
            directory: made when it is needed.
            faults: where to fail.
        """
        self._directory = directory
        self._faults = faults or Faults()

    @override
    async def make(self, volume: Volume) -> None:
        await self._faults.at("volume:make")
        (self._directory / volume.id).mkdir(parents=True, exist_ok=True)

    @override
    async def directory(self, volume_id: VolumeId) -> Path:
        place = self._directory / volume_id
        if not place.is_dir():
            raise NotFoundError(f"Volume {volume_id} not found")
        return place

    @override
    async def remove(self, volume_id: VolumeId) -> None:
        await self._faults.at("volume:remove")
        shutil.rmtree(self._directory / volume_id, ignore_errors=True)

    @override
    async def present(self) -> Sequence[VolumeId]:
        if not self._directory.is_dir():
            return []
        return [VolumeId(path.name) for path in sorted(self._directory.iterdir())]

    @override
    async def let_go(self) -> None:
        return
