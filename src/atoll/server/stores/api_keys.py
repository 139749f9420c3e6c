"""Teams, and the keys that may call."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping, bindparam, delete, func, insert, select, update
from typing_extensions import override

from atoll.server.domain.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import ApiKey, KeyKind, Mask, Team
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.stores.database import Database
from atoll.server.stores.tables import api_keys, teams

# Built once: every call looks for its key.
_WITH_HASH = select(api_keys).where(api_keys.c.hash == bindparam("hash"))


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
    async def add_api_key(self, key: ApiKey, *, most: int) -> None:
        with self._database.transaction(writes=True) as connection:
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
    async def find_api_key(self, hash: str) -> ApiKey | None:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(_WITH_HASH, {"hash": hash}).mappings().first()
            return _key(row) if row is not None else None

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


def _team(row: RowMapping) -> Team:
    return Team(id=TeamId(row["id"]), name=row["name"], created_at=row["created_at"])
