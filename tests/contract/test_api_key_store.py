"""Every promise of ports/api_keys.py."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from atoll.server.domain.ids import TeamId
from atoll.server.ports.api_keys import ApiKey, ApiKeys
from atoll.server.stores.api_keys import SqliteApiKeys
from atoll.server.stores.database import Database

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEAM = TeamId("team")


@pytest.fixture
async def keys() -> AsyncIterator[ApiKeys]:
    async with Database(None) as database:
        yield SqliteApiKeys(database)


async def test_keys_are_found_by_their_hash(keys: ApiKeys) -> None:
    key = ApiKey(hash="ab" * 32, team_id=TEAM, name="first", created_at=NOON)
    await keys.add_api_key(key)
    await keys.add_api_key(replace(key, name="second"))

    assert await keys.find_api_key(key.hash) == key
    assert await keys.find_api_key("cd" * 32) is None
    assert await keys.find_api_key("") is None


async def test_keys_are_dropped_by_team_and_name(keys: ApiKeys) -> None:
    key = ApiKey(hash="1", team_id=TEAM, name="a", created_at=NOON)
    for one in (key, replace(key, hash="2", name="b"), replace(key, hash="3", team_id=TeamId("other"))):
        await keys.add_api_key(one)

    assert await keys.drop_api_keys(TEAM, "a") == 1
    assert await keys.drop_api_keys(TEAM, "a") == 0

    assert await keys.find_api_key("1") is None
    assert await keys.find_api_key("2") is not None
    assert await keys.find_api_key("3") is not None
