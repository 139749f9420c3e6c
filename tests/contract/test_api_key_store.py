"""Every promise of ports/api_keys.py."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from contract.test_secret_store import made as secret
from contract.test_snapshot_store import making
from contract.test_store import make as sandbox
from contract.test_volume_store import volume
from fakes.events import sandboxes_in, snapshots_in, webhooks_in
from fakes.teams import add_teams

from atoll.server.control.requests import Actor
from atoll.server.control.watching.webhooks import NewWebhook
from atoll.server.domain.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
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
from atoll.server.domain.team_limits import TeamLimits
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.stores.api_keys import SqliteApiKeys
from atoll.server.stores.database import Database
from atoll.server.stores.secrets import SqliteSecrets
from atoll.server.stores.volumes import SqliteVolumes

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
TEAM, OTHER = TeamId("team"), TeamId("other")
ALL = frozenset(KeyKind)


@pytest.fixture
async def bare() -> AsyncIterator[ApiKeys]:
    async with Database(None) as database:
        yield SqliteApiKeys(database)


@pytest.fixture
async def keys(bare: ApiKeys) -> ApiKeys:
    """With the teams of this file."""
    for team_id in (TEAM, OTHER):
        await bare.add_team(Team(id=team_id, name=team_id, created_at=NOON), most=9)
    return bare


async def found(keys: ApiKeys, key: ApiKey) -> ApiKey | None:
    """Find a key by its hash."""
    known = await keys.find_api_key(key.hash)
    return known[0] if known is not None else None


def made(kind: KeyKind = KeyKind.API_KEY, team_id: TeamId = TEAM, name: str = "a") -> ApiKey:
    return make_key(new_key(kind), kind, team_id, name, NOON)


async def test_there_is_one_team_from_the_beginning(bare: ApiKeys) -> None:
    [team] = await bare.list_teams()

    assert (team.id, team.name) == (DEFAULT_TEAM, "default")
    assert await bare.get_team(DEFAULT_TEAM) == team


async def test_teams_are_found_and_names_are_of_one_kind(bare: ApiKeys) -> None:
    future = datetime.now(UTC) + timedelta(days=1)
    team = Team(id=new_team_id(), name="research", created_at=future)
    await bare.add_team(team, most=2)

    assert await bare.get_team(team.id) == team
    assert [one.name for one in await bare.list_teams()] == ["default", "research"]
    with pytest.raises(AlreadyExistsError):
        await bare.add_team(replace(team, id=new_team_id()), most=10)
    with pytest.raises(ResourceExhaustedError, match="2"):
        await bare.add_team(replace(team, id=new_team_id(), name="third"), most=2)
    with pytest.raises(NotFoundError):
        await bare.get_team(TeamId("nobody"))


async def test_keys_are_found_by_hash_and_by_id(keys: ApiKeys) -> None:
    key = made()
    await keys.add_api_key(key, most=10)

    assert await found(keys, key) == key
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
    assert await found(keys, second) == second
    assert await found(keys, given) == given


async def test_a_key_is_found_with_its_team_and_that_teams_limits(keys: ApiKeys) -> None:
    key = made()
    await keys.add_api_key(key, most=10)
    limits = TeamLimits(max_sandboxes=0, max_cpus=0.5, max_memory_bytes=2**40, requests_per_second=3)

    changed = await keys.limit_team(TEAM, limits)

    assert changed == await keys.get_team(TEAM)
    assert changed.limits == limits
    assert await keys.find_api_key(key.hash) == (key, changed)
    assert (await keys.get_team(OTHER)).limits == TeamLimits()
    assert (await keys.limit_team(TEAM, TeamLimits())).limits == TeamLimits()
    with pytest.raises(NotFoundError):
        await keys.limit_team(TeamId("nobody"), limits)


async def test_a_team_that_is_deleted_has_no_keys_and_gets_none(keys: ApiKeys) -> None:
    key, other = made(), made(team_id=OTHER)
    for one in (key, other):
        await keys.add_api_key(one, most=10)

    await keys.begin_deletion(TEAM, NOON, force=False)
    await keys.begin_deletion(TEAM, LATER, force=False)

    assert (await keys.get_team(TEAM)).deleting_since == NOON
    assert TEAM in [team.id for team in await keys.list_teams()]
    assert await keys.find_api_key(key.hash) is None
    assert await found(keys, other) == other
    for team_id in (TEAM, TeamId("nobody")):
        with pytest.raises(NotFoundError):
            await keys.add_api_key(made(team_id=team_id), most=10)
    with pytest.raises(NotFoundError):
        await keys.limit_team(TEAM, TeamLimits())
    with pytest.raises(FailedPreconditionError):
        await keys.end_deletion(OTHER)
    await keys.end_deletion(TEAM)
    await keys.end_deletion(TEAM)
    with pytest.raises(NotFoundError):
        await keys.get_team(TEAM)
    with pytest.raises(NotFoundError):
        await keys.begin_deletion(TEAM, NOON, force=True)


class Owned:
    """Everything that a team may have, in one database."""

    def __init__(self, database: Database) -> None:
        self.keys = SqliteApiKeys(database)
        self.sandboxes = sandboxes_in(database)
        self.volumes = SqliteVolumes(database)
        self.snapshots = snapshots_in(database)
        self.secrets = SqliteSecrets(database, secret=b"k" * 32)
        self.webhooks = webhooks_in(database)

    def writes(self) -> dict[str, Callable[[], Awaitable[Any]]]:
        """List what writes a row of a team's."""
        actor = Actor(team_id=TEAM, key_id="k", key_name="k")
        hook = NewWebhook(
            name="h", url="https://example.com", events=["sandbox.lifecycle.created"], secret="s" * 32
        )
        return {
            "sandbox": lambda: self.sandboxes.add_sandbox(sandbox(team_id=TEAM)),
            "volume": lambda: self.volumes.add_volume(volume(team=TEAM), most=9),
            "snapshot": lambda: self.snapshots.add_snapshot(making(team_id=TEAM), most=9),
            "secret": lambda: self.secrets.add_secret(secret("s", TEAM), "v", most=9),
            "webhook": lambda: self.webhooks.create(actor, hook),
        }


@pytest.mark.parametrize("noun", ["sandbox", "volume", "snapshot", "secret", "webhook"])
async def test_nothing_is_written_for_a_team_that_is_gone_or_going(noun: str) -> None:
    async with Database(None) as database:
        owned = Owned(database)
        write = owned.writes()[noun]
        with pytest.raises(NotFoundError, match="Team 'team' not found"):
            await write()
        await add_teams(database, TEAM)
        await owned.keys.begin_deletion(TEAM, NOON, force=False)

        with pytest.raises(NotFoundError, match="Team 'team' not found"):
            await write()

        await owned.keys.end_deletion(TEAM)


@pytest.mark.parametrize("noun", ["sandbox", "volume", "snapshot"])
async def test_a_team_with_something_of_worth_is_deleted_by_force_only(noun: str) -> None:
    async with Database(None) as database:
        await add_teams(database, TEAM)
        owned = Owned(database)
        await owned.writes()[noun]()

        with pytest.raises(FailedPreconditionError, match=f"Team 'team' has 1 {noun}: delete"):
            await owned.keys.begin_deletion(TEAM, NOON, force=False)
        assert (await owned.keys.get_team(TEAM)).deleting_since is None
        await owned.keys.begin_deletion(TEAM, NOON, force=True)

        with pytest.raises(FailedPreconditionError, match=f"still has 1 {noun}"):
            await owned.keys.end_deletion(TEAM)
