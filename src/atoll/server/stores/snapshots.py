"""The rows of snapshots."""

from collections.abc import Sequence

from sqlalchemy import RowMapping, and_, bindparam, delete, func, insert, or_, select, update
from typing_extensions import override

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import NotFoundError, ResourceExhaustedError
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.snapshot import Snapshot, SnapshotId, SnapshotStatus
from atoll.server.ports.snapshots import SnapshotQuery, SnapshotStore
from atoll.server.stores.database import Database
from atoll.server.stores.owning import check_team
from atoll.server.stores.tables import snapshots
from atoll.server.stores.telling import Telling

_READY = snapshots.c.status == SnapshotStatus.READY.value


# Built once: every create asks whether its template is one.
_CALLED = select(snapshots).where(
    snapshots.c.team_id == bindparam("team_id"),
    or_(snapshots.c.id == bindparam("called"), snapshots.c.name == bindparam("called")),
    _READY,
)


class SqliteSnapshots(SnapshotStore):
    """Snapshots in the database."""

    def __init__(self, database: Database, telling: Telling) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
            telling: what owners hear of it.
        """
        self._database = database
        self._telling = telling

    @override
    async def add_snapshot(self, snapshot: Snapshot, *, most: int) -> None:
        ours = select(func.count()).select_from(snapshots).where(snapshots.c.team_id == snapshot.team_id)
        with self._database.transaction(writes=True) as connection:
            check_team(connection, snapshot.team_id)
            if connection.execute(ours).scalar_one() >= most:
                raise ResourceExhaustedError(
                    f"The most snapshots exist that a team may have ({most})",
                    resolution="Delete some, or raise max_snapshots in the server's settings.",
                )
            connection.execute(insert(snapshots), _to_row(snapshot))

    @override
    async def finish_snapshot(
        self, snapshot_id: SnapshotId, name: str | None, size_bytes: int, *, is_ready: bool = True
    ) -> Snapshot:
        this = snapshots.c.id == snapshot_id
        with self._database.transaction(writes=True) as connection:
            row = connection.execute(select(snapshots).where(this)).mappings().first()
            if row is None:
                raise NotFoundError(f"Snapshot {snapshot_id} not found")
            if name is not None:
                older = (snapshots.c.team_id == row["team_id"]) & (snapshots.c.name == name)
                connection.execute(update(snapshots).where(older).values(name=None))
            status = SnapshotStatus.READY if is_ready else SnapshotStatus.MAKING
            taken = {"name": name, "size_bytes": size_bytes, "status": status.value}
            connection.execute(update(snapshots).where(this).values(**taken))
            finished = _from_row(connection.execute(select(snapshots).where(this)).mappings().one())
            self._telling.tell_of_snapshot(connection, finished)
            return finished

    @override
    async def find_snapshot(self, team_id: TeamId, key: str) -> Snapshot | None:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(_CALLED, {"team_id": team_id, "called": key}).mappings().first()
            return _from_row(row) if row is not None else None

    @override
    async def list_snapshots(self, query: SnapshotQuery) -> Sequence[Snapshot]:
        conditions = [snapshots.c.team_id == query.team_id, _READY]
        if query.sandbox_id is not None:
            conditions.append(snapshots.c.sandbox_id == query.sandbox_id)
        if query.name is not None:
            conditions.append(snapshots.c.name == query.name)
        if query.scheduled is not None:
            conditions.append(snapshots.c.scheduled.is_(query.scheduled))
        if query.after is not None:
            at, last = query.after
            same = and_(snapshots.c.created_at == at, snapshots.c.id < last)
            conditions.append(or_(snapshots.c.created_at < at, same))
        wanted = (
            select(snapshots)
            .where(*conditions)
            .order_by(snapshots.c.created_at.desc(), snapshots.c.id.desc())
            .limit(query.limit)
        )
        with self._database.transaction(writes=False) as connection:
            return [_from_row(row) for row in connection.execute(wanted).mappings()]

    @override
    async def delete_snapshot(self, snapshot_id: SnapshotId) -> bool:
        with self._database.transaction(writes=True) as connection:
            return connection.execute(delete(snapshots).where(snapshots.c.id == snapshot_id)).rowcount > 0

    @override
    async def all_snapshots(self) -> Sequence[Snapshot]:
        with self._database.transaction(writes=False) as connection:
            return [_from_row(row) for row in connection.execute(select(snapshots)).mappings()]


def _to_row(snapshot: Snapshot) -> dict[str, object]:
    return {
        "id": snapshot.id,
        "team_id": snapshot.team_id,
        "name": snapshot.name,
        "sandbox_id": snapshot.sandbox_id,
        "template_id": snapshot.template_id,
        "template_alias": snapshot.template_alias,
        "kind": snapshot.kind.value,
        "generation": snapshot.generation,
        "cpus": snapshot.limits.cpus,
        "memory_bytes": snapshot.limits.memory_bytes,
        "processes": snapshot.limits.processes,
        "disk_bytes": snapshot.limits.disk_bytes,
        "env": dict(snapshot.env),
        "size_bytes": snapshot.size_bytes,
        "status": snapshot.status.value,
        "created_at": snapshot.created_at,
        "scheduled": snapshot.scheduled,
    }


def _from_row(row: RowMapping) -> Snapshot:
    return Snapshot(
        id=SnapshotId(row["id"]),
        team_id=TeamId(row["team_id"]),
        name=row["name"],
        sandbox_id=SandboxId(row["sandbox_id"]),
        template_id=TemplateId(row["template_id"]),
        template_alias=row["template_alias"],
        kind=CheckpointKind(row["kind"]),
        generation=row["generation"],
        limits=Limits(
            cpus=row["cpus"],
            memory_bytes=row["memory_bytes"],
            processes=row["processes"],
            disk_bytes=row["disk_bytes"],
        ),
        env=row["env"],
        size_bytes=row["size_bytes"],
        status=SnapshotStatus(row["status"]),
        created_at=row["created_at"],
        scheduled=row["scheduled"],
    )
