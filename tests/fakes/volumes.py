"""Volumes in memory, for dialects: rows without a database, contents without files."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from atoll.server.control.owned.volumes import VolumeLimits, Volumes
from atoll.server.domain.errors import AlreadyExistsError, NotFoundError
from atoll.server.domain.ids import TeamId, VolumeId
from atoll.server.domain.volume import Volume
from atoll.server.ports.clock import Clock
from atoll.server.ports.volumes import VolumeFiles, VolumeStore


class MemoryVolumeStore(VolumeStore):
    def __init__(self) -> None:
        self._rows: dict[VolumeId, Volume] = {}

    async def add_volume(self, volume: Volume, *, most: int) -> None:
        if await self.find_volume(volume.team_id, volume.name):
            raise AlreadyExistsError(f"A volume named '{volume.name}' exists")
        self._rows[volume.id] = volume

    async def get_volume(self, volume_id: VolumeId) -> Volume:
        if volume_id not in self._rows:
            raise NotFoundError(f"Volume {volume_id} not found")
        return self._rows[volume_id]

    async def find_volume(self, team_id: TeamId, name: str) -> Volume | None:
        rows = self._rows.values()
        return next((row for row in rows if (row.team_id, row.name) == (team_id, name)), None)

    async def list_volumes(
        self,
        team_id: TeamId | None,
        *,
        after: tuple[datetime, VolumeId] | None = None,
        limit: int | None = None,
    ) -> Sequence[Volume]:
        rows = sorted(self._rows.values(), key=lambda row: (row.created_at, row.id))
        behind = [row for row in rows if after is None or (row.created_at, row.id) > after]
        return [row for row in behind if team_id in (None, row.team_id)][:limit]

    async def remove_volume(self, volume_id: VolumeId) -> None:
        self._rows.pop(volume_id, None)


class NoFiles(VolumeFiles):
    async def make(self, volume: Volume) -> None:
        return

    async def directory(self, volume_id: VolumeId) -> Path:
        return Path("/nowhere") / volume_id

    async def remove(self, volume_id: VolumeId) -> None:
        return

    async def present(self) -> Sequence[VolumeId]:
        return []

    async def let_go(self) -> None:
        return


class FixedClock(Clock):
    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    async def sleep_until(self, when: datetime) -> None:
        return


def memory_volumes() -> Volumes:
    """Make the verbs of volumes over nothing."""
    return Volumes(
        store=MemoryVolumeStore(),
        files=NoFiles(),
        clock=FixedClock(),
        secret=b"s" * 32,
        limits=VolumeLimits(),
    )
