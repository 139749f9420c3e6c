"""The keys that may call."""

from sqlalchemy import delete, insert, select
from typing_extensions import override

from atoll.server.domain.ids import TeamId
from atoll.server.ports.api_keys import ApiKey, ApiKeys
from atoll.server.stores.database import Database
from atoll.server.stores.rows import api_key_from_row
from atoll.server.stores.tables import api_keys


class SqliteApiKeys(ApiKeys):
    """Keys in the database."""

    def __init__(self, database: Database) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
        """
        self._database = database

    @override
    async def add_api_key(self, key: ApiKey) -> None:
        with self._database.transaction(writes=True) as connection:
            if connection.execute(select(api_keys.c.hash).where(api_keys.c.hash == key.hash)).first():
                return
            row = {
                "hash": key.hash,
                "team_id": key.team_id,
                "name": key.name,
                "created_at": key.created_at,
            }
            connection.execute(insert(api_keys), row)

    @override
    async def drop_api_keys(self, team_id: TeamId, name: str) -> int:
        named = (api_keys.c.team_id == team_id) & (api_keys.c.name == name)
        with self._database.transaction(writes=True) as connection:
            return connection.execute(delete(api_keys).where(named)).rowcount

    @override
    async def find_api_key(self, hash: str) -> ApiKey | None:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.hash == hash)).mappings().first()
            return api_key_from_row(row) if row is not None else None
