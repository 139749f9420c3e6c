"""The rows of volumes."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping, delete, func, insert, literal, select, tuple_
from typing_extensions import override

from atoll.server.domain.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from atoll.server.domain.ids import TeamId, VolumeId
from atoll.server.domain.sandbox import FINAL
from atoll.server.domain.volume import Volume
from atoll.server.ports.volumes import VolumeStore
from atoll.server.stores.database import Database
from atoll.server.stores.owning import check_team
from atoll.server.stores.tables import UtcDateTime, sandboxes, volumes


class SqliteVolumes(VolumeStore):
    """Volumes in the database."""

    def __init__(self, database: Database) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
        """
        self._database = database

    @override
    async def add_volume(self, volume: Volume, *, most: int) -> None:
        with self._database.transaction(writes=True) as connection:
            check_team(connection, volume.team_id)
            same = (volumes.c.team_id == volume.team_id) & (volumes.c.name == volume.name)
            if connection.execute(select(volumes.c.id).where(same)).first():
                raise AlreadyExistsError(f"A volume named '{volume.name}' exists")
            if connection.execute(select(func.count()).select_from(volumes)).scalar_one() >= most:
                raise ResourceExhaustedError(
                    f"The most volumes exist that this server may have ({most})",
                    resolution="Delete some, or raise volumes.most in the server's settings.",
                )
            row = {
                "id": volume.id,
                "team_id": volume.team_id,
                "name": volume.name,
                "size_bytes": volume.size_bytes,
                "created_at": volume.created_at,
            }
            connection.execute(insert(volumes), row)

    @override
    async def get_volume(self, volume_id: VolumeId) -> Volume:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(select(volumes).where(volumes.c.id == volume_id)).mappings().first()
        if row is None:
            raise NotFoundError(f"Volume {volume_id} not found")
        return _from_row(row)

    @override
    async def find_volume(self, team_id: TeamId, name: str) -> Volume | None:
        same = (volumes.c.team_id == team_id) & (volumes.c.name == name)
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(select(volumes).where(same)).mappings().first()
        return _from_row(row) if row is not None else None

    @override
    async def list_volumes(
        self,
        team_id: TeamId | None,
        *,
        after: tuple[datetime, VolumeId] | None = None,
        limit: int | None = None,
    ) -> Sequence[Volume]:
        found = select(volumes).order_by(volumes.c.created_at, volumes.c.id).limit(limit)
        if after is not None:
            moment, volume_id = after
            there = tuple_(literal(moment, UtcDateTime), literal(volume_id))
            found = found.where(tuple_(volumes.c.created_at, volumes.c.id) > there)
        if team_id is not None:
            found = found.where(volumes.c.team_id == team_id)
        with self._database.transaction(writes=False) as connection:
            return [_from_row(row) for row in connection.execute(found).mappings()]

    @override
    async def remove_volume(self, volume_id: VolumeId) -> None:
        live = sandboxes.c.status.not_in([status.value for status in FINAL])
        with self._database.transaction(writes=True) as connection:
            # Few sandboxes are alive, and the form of JSON paths differs between databases.
            for row in connection.execute(select(sandboxes.c.id, sandboxes.c.volumes).where(live)).mappings():
                if any(mount["volume_id"] == volume_id for mount in row["volumes"]):
                    raise FailedPreconditionError(
                        f"Volume {volume_id} is in use",
                        details=f"sandbox {row['id']} has it",
                        resolution="Kill the sandbox first.",
                    )
            connection.execute(delete(volumes).where(volumes.c.id == volume_id))


def _from_row(row: RowMapping) -> Volume:
    return Volume(
        id=VolumeId(row["id"]),
        team_id=TeamId(row["team_id"]),
        name=row["name"],
        size_bytes=row["size_bytes"],
        created_at=row["created_at"],
    )
