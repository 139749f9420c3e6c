"""Teams for tests whose rows belong to one: what belongs to nobody is not written."""

from datetime import UTC, datetime

from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import Team
from atoll.server.stores.api_keys import SqliteApiKeys
from atoll.server.stores.database import Database

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


async def add_teams(database: Database, *team_ids: str) -> None:
    """Write teams that are called as their ids."""
    keys = SqliteApiKeys(database)
    for team_id in team_ids:
        await keys.add_team(Team(id=TeamId(team_id), name=team_id, created_at=BEGINNING), most=1000)
