"""Every promise of ports/api_keys.py."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from atoll.server.domain.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import (
    DEFAULT_TEAM,
    ApiKey,
    KeyKind,
    Team,
    make_key,
    new_key,
    new_team_id,
)
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.stores.api_keys import SqliteApiKeys
from atoll.server.stores.database import Database

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
TEAM, OTHER = TeamId("team"), TeamId("other")
ALL = frozenset(KeyKind)


@pytest.fixture
async def keys() -> AsyncIterator[ApiKeys]:
    async with Database(None) as database:
        yield SqliteApiKeys(database)


def made(kind: KeyKind = KeyKind.API_KEY, team_id: TeamId = TEAM, name: str = "a") -> ApiKey:
    return make_key(new_key(kind), kind, team_id, name, NOON)


async def test_there_is_one_team_from_the_beginning(keys: ApiKeys) -> None:
    [team] = await keys.list_teams()

    assert (team.id, team.name) == (DEFAULT_TEAM, "default")
    assert await keys.get_team(DEFAULT_TEAM) == team


async def test_teams_are_found_and_names_are_of_one_kind(keys: ApiKeys) -> None:
    future = datetime.now(UTC) + timedelta(days=1)
    team = Team(id=new_team_id(), name="research", created_at=future)
    await keys.add_team(team, most=2)

    assert await keys.get_team(team.id) == team
    assert [one.name for one in await keys.list_teams()] == ["default", "research"]
    with pytest.raises(AlreadyExistsError):
        await keys.add_team(replace(team, id=new_team_id()), most=10)
    with pytest.raises(ResourceExhaustedError, match="2"):
        await keys.add_team(replace(team, id=new_team_id(), name="third"), most=2)
    with pytest.raises(NotFoundError):
        await keys.get_team(TeamId("nobody"))


async def test_keys_are_found_by_hash_and_by_id(keys: ApiKeys) -> None:
    key = made()
    await keys.add_api_key(key, most=10)

    assert await keys.find_api_key(key.hash) == key
    assert await keys.get_api_key(key.id) == key
    assert await keys.find_api_key("cd" * 32) is None
    assert await keys.find_api_key("") is None
    with pytest.raises(NotFoundError):
        await keys.get_api_key("nobody")


async def test_a_team_has_no_more_keys_than_it_may(keys: ApiKeys) -> None:
    for _ in range(2):
        await keys.add_api_key(made(), most=2)

    with pytest.raises(ResourceExhaustedError, match="2"):
        await keys.add_api_key(made(), most=2)
    await keys.add_api_key(made(team_id=OTHER), most=2)


async def test_lists_are_of_one_team_and_of_the_kinds_that_are_wanted(keys: ApiKeys) -> None:
    late, token, early = replace(made(), created_at=LATER), made(KeyKind.ACCESS_TOKEN), made()
    for key in (late, token, early, made(team_id=OTHER)):
        await keys.add_api_key(key, most=10)

    assert await keys.list_api_keys(TEAM, frozenset({KeyKind.API_KEY})) == [early, late]
    assert await keys.list_api_keys(TEAM, frozenset({KeyKind.ACCESS_TOKEN})) == [token]
    assert len(await keys.list_api_keys(TEAM, ALL)) == 3
    assert await keys.list_api_keys(TeamId("nobody"), ALL) == []


async def test_a_key_is_renamed_used_and_dropped(keys: ApiKeys) -> None:
    key, other = made(), made()
    for one in (key, other):
        await keys.add_api_key(one, most=10)

    await keys.rename_api_key(key.id, "b")
    await keys.use_api_key(key.id, LATER)
    assert await keys.get_api_key(key.id) == replace(key, name="b", last_used_at=LATER)
    assert await keys.get_api_key(other.id) == other

    assert await keys.drop_api_key(key.id)
    assert not await keys.drop_api_key(key.id)
    assert await keys.find_api_key(key.hash) is None
    await keys.rename_api_key(key.id, "c")
    await keys.use_api_key(key.id, LATER)
    assert await keys.list_api_keys(TEAM, ALL) == [other]


async def test_the_home_has_one_key(keys: ApiKeys) -> None:
    given, first, second = made(), made(KeyKind.HOME), made(KeyKind.HOME, name="b")
    await keys.add_api_key(given, most=10)
    for key in (first, replace(first, id="another"), second):
        await keys.replace_home_key(key)

    assert await keys.find_api_key(first.hash) is None
    assert await keys.find_api_key(second.hash) == second
    assert await keys.find_api_key(given.hash) == given
