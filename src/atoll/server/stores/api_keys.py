"""Teams, and the keys that may call."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, insert, select, true, update
from typing_extensions import override

from atoll.server.domain.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import ApiKey, KeyKind, Mask, Team
from atoll.server.domain.sandbox import FINAL
from atoll.server.domain.team_limits import TeamLimits
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.stores.database import Database
from atoll.server.stores.owning import check_team
from atoll.server.stores.tables import api_keys, sandboxes, snapshots, teams, volumes

# A key with its team; the team's columns have names of their own.
_WHOSE = (
    select(api_keys, *(column.label(f"team_{column.name}") for column in teams.c if column.name != "id"))
    .join(teams, teams.c.id == api_keys.c.team_id)
    .where(api_keys.c.hash == bindparam("hash"))
)


class SqliteApiKeys(ApiKeys):
    """Teams and keys in the database."""

    def __init__(self, database: Database) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
        """
        self._database = database

    @override
    async def add_team(self, team: Team, *, most: int) -> None:
        with self._database.transaction(writes=True) as connection:
            if connection.execute(select(teams.c.id).where(teams.c.name == team.name)).first():
                raise AlreadyExistsError(f"Team {team.name!a} exists already")
            if connection.execute(select(func.count()).select_from(teams)).scalar_one() >= most:
                raise ResourceExhaustedError(
                    f"The most teams exist that this server may have ({most})",
                    resolution="Raise max_teams in the server's settings.",
                )
            row = {"id": team.id, "name": team.name, "created_at": team.created_at}
            connection.execute(insert(teams), row)

    @override
    async def get_team(self, team_id: TeamId) -> Team:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(select(teams).where(teams.c.id == team_id)).mappings().first()
            if row is None:
                raise NotFoundError(f"Team {team_id[:64]!a} not found")
            return _team(row)

    @override
    async def list_teams(self) -> Sequence[Team]:
        with self._database.transaction(writes=False) as connection:
            found = connection.execute(select(teams).order_by(teams.c.created_at, teams.c.id)).mappings()
            return [_team(row) for row in found]

    @override
    async def limit_team(self, team_id: TeamId, limits: TeamLimits) -> Team:
        this = teams.c.id == team_id
        with self._database.transaction(writes=True) as connection:
            check_team(connection, team_id)
            connection.execute(update(teams).where(this).values(**asdict(limits)))
            return _team(connection.execute(select(teams).where(this)).mappings().one())

    @override
    async def begin_deletion(self, team_id: TeamId, at: datetime, *, force: bool) -> None:
        this = teams.c.id == team_id
        with self._database.transaction(writes=True) as connection:
            row = connection.execute(select(teams).where(this)).mappings().first()
            if row is None:
                raise NotFoundError(f"Team {team_id[:64]!a} not found")
            if row["deleting_since"] is not None:
                return
            if not force and (left := _belongings(connection, team_id)):
                raise FailedPreconditionError(
                    f"Team {row['name']!a} has {left}: delete them first, or have them deleted by force"
                )
            connection.execute(update(teams).where(this).values(deleting_since=at))
            connection.execute(delete(api_keys).where(api_keys.c.team_id == team_id))

    @override
    async def end_deletion(self, team_id: TeamId) -> None:
        this = teams.c.id == team_id
        with self._database.transaction(writes=True) as connection:
            row = connection.execute(select(teams).where(this)).mappings().first()
            if row is None:
                return
            if row["deleting_since"] is None:
                raise FailedPreconditionError(f"Team {row['name']!a} is not being deleted")
            if left := _belongings(connection, team_id):
                raise FailedPreconditionError(f"Team {row['name']!a} still has {left}")
            connection.execute(delete(teams).where(this))

    @override
    async def add_api_key(self, key: ApiKey, *, most: int) -> None:
        with self._database.transaction(writes=True) as connection:
            check_team(connection, key.team_id)
            ours = select(func.count()).select_from(api_keys).where(api_keys.c.team_id == key.team_id)
            if connection.execute(ours).scalar_one() >= most:
                raise ResourceExhaustedError(
                    f"The most keys exist that a team may have ({most})",
                    resolution="Revoke some, or raise max_keys in the server's settings.",
                )
            connection.execute(insert(api_keys), _to_row(key))

    @override
    async def replace_home_key(self, key: ApiKey) -> None:
        with self._database.transaction(writes=True) as connection:
            if connection.execute(select(api_keys.c.id).where(api_keys.c.hash == key.hash)).first():
                return
            connection.execute(delete(api_keys).where(api_keys.c.kind == KeyKind.HOME.value))
            connection.execute(insert(api_keys), _to_row(key))

    @override
    async def find_api_key(self, hash: str) -> tuple[ApiKey, Team] | None:
        # Every call of the API asks this: one statement, built once.
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(_WHOSE, {"hash": hash}).mappings().first()
            return (_key(row), _team(row, "team_")) if row is not None else None

    @override
    async def get_api_key(self, key_id: str) -> ApiKey:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).mappings().first()
            if row is None:
                raise NotFoundError(f"Key {key_id[:64]!a} not found")
            return _key(row)

    @override
    async def list_api_keys(self, team_id: TeamId, kinds: frozenset[KeyKind]) -> Sequence[ApiKey]:
        ours = (api_keys.c.team_id == team_id) & api_keys.c.kind.in_([kind.value for kind in kinds])
        wanted = select(api_keys).where(ours).order_by(api_keys.c.created_at, api_keys.c.id)
        with self._database.transaction(writes=False) as connection:
            return [_key(row) for row in connection.execute(wanted).mappings()]

    @override
    async def rename_api_key(self, key_id: str, name: str) -> None:
        with self._database.transaction(writes=True) as connection:
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(name=name))

    @override
    async def use_api_key(self, key_id: str, at: datetime) -> None:
        with self._database.transaction(writes=True) as connection:
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=at))

    @override
    async def drop_api_key(self, key_id: str) -> bool:
        with self._database.transaction(writes=True) as connection:
            return connection.execute(delete(api_keys).where(api_keys.c.id == key_id)).rowcount > 0


def _belongings(connection: Connection, team_id: TeamId) -> str:
    """Say what a team has that is not deleted by the way; empty: nothing."""
    live = sandboxes.c.status.not_in([status.value for status in FINAL])
    found = []
    for noun, table, which in (
        ("sandbox", sandboxes, live),
        ("volume", volumes, true()),
        ("snapshot", snapshots, true()),
    ):
        ours = select(func.count()).select_from(table).where(table.c.team_id == team_id, which)
        number = connection.execute(ours).scalar_one()
        if number:
            plural = {"sandbox": "es"}.get(noun, "s") if number > 1 else ""
            found.append(f"{number} {noun}{plural}")
    return " and ".join(part for part in (", ".join(found[:-1]), *found[-1:]) if part)


def _to_row(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "hash": key.hash,
        "team_id": key.team_id,
        "name": key.name,
        "kind": key.kind.value,
        "prefix": key.mask.prefix,
        "length": key.mask.length,
        "first": key.mask.first,
        "last": key.mask.last,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
    }


def _key(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        hash=row["hash"],
        team_id=TeamId(row["team_id"]),
        name=row["name"],
        kind=KeyKind(row["kind"]),
        mask=Mask(prefix=row["prefix"], length=row["length"], first=row["first"], last=row["last"]),
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
    )


def _team(row: RowMapping, prefix: str = "") -> Team:
    def of(name: str) -> Any:
        return row[prefix + name]

    return Team(
        id=TeamId(of("id")),
        name=of("name"),
        created_at=of("created_at"),
        limits=TeamLimits(**{one.name: of(one.name) for one in fields(TeamLimits)}),
        deleting_since=of("deleting_since"),
    )
