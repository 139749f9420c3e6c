"""Teams and keys: who may make which, and for whom."""

import re

import pytest
from fakes.world import World, small

from atoll.server.control.owned.keys import Keys
from atoll.server.control.requests import Actor
from atoll.server.control.rows import access
from atoll.server.control.service import Control
from atoll.server.domain.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
)
from atoll.server.domain.keys import DEFAULT_TEAM, KeyKind, new_key

API_KEY, TOKEN = KeyKind.API_KEY, KeyKind.ACCESS_TOKEN


@pytest.fixture
async def home(world: World, control: Control) -> Actor:
    key = new_key(KeyKind.HOME)
    await access.set_home_key(world.api_keys, world.clock, key, name="home")
    return await control.authenticate(key)


@pytest.fixture
def keys(world: World, control: Control) -> Keys:
    # Control is open, and so is the database.
    return world.keys()


async def test_the_homes_key_makes_teams_and_keys_for_them(home: Actor, keys: Keys, control: Control) -> None:
    team = await keys.create_team(home, " research ")

    by_name = await keys.create(home, "one", API_KEY, "research")
    by_id = await keys.create(home, "two", API_KEY, team.id)
    ours = await keys.create(home, "three", API_KEY)

    assert team.name == "research"
    assert [(await control.authenticate(key)).team_id for _, key in (by_name, by_id, ours)] == [
        team.id, team.id, DEFAULT_TEAM,
    ]  # fmt: skip
    assert {key.name for key in await keys.list(home, "research")} == {"one", "two"}
    assert [key.name for key in await keys.list(home)] == ["three"]
    assert {one.name for one in await keys.teams(home)} == {"default", "research"}


async def test_a_token_makes_keys_of_its_own_team_and_no_other(
    home: Actor, keys: Keys, control: Control
) -> None:
    await keys.create_team(home, "research")
    foreign, _ = await keys.create(home, "foreign", API_KEY)
    _, shown = await keys.create(home, "token", TOKEN, "research")
    token = await control.authenticate(shown)

    made, key = await keys.create(token, "mine", API_KEY)

    assert re.fullmatch("sk_e2b_[0-9a-f]{40}", shown)
    assert (await control.authenticate(key)).team_id == token.team_id
    assert [team.name for team in await keys.teams(token)] == ["research"]
    assert {one.name for one in await keys.list(token)} == {"token", "mine"}
    with pytest.raises(PermissionDeniedError):
        await keys.create_team(token, "another")
    with pytest.raises(NotFoundError):
        await keys.create(token, "x", API_KEY, "default")
    with pytest.raises(NotFoundError):
        await keys.list(token, DEFAULT_TEAM)
    for key_id in (foreign.id, home.key_id, "nobody"):
        with pytest.raises(NotFoundError):
            await keys.revoke(token, key_id)
        with pytest.raises(NotFoundError):
            await keys.rename(token, key_id, "x")
    await keys.revoke(token, made.id)


async def test_an_api_key_makes_and_sees_none(home: Actor, keys: Keys, control: Control) -> None:
    made, key = await keys.create(home, "program", API_KEY)
    program = await control.authenticate(key)

    assert [team.id for team in await keys.teams(program)] == [DEFAULT_TEAM]
    for work in (
        keys.create(program, "x", API_KEY),
        keys.create(program, "x", TOKEN),
        keys.list(program),
        keys.revoke(program, made.id),
        keys.rename(program, made.id, "x"),
        keys.create_team(program, "x"),
    ):
        with pytest.raises(PermissionDeniedError):
            await work


async def test_a_key_that_was_revoked_is_refused_at_once(home: Actor, keys: Keys, control: Control) -> None:
    made, key = await keys.create(home, "a", API_KEY)
    await control.authenticate(key)

    await keys.revoke(home, made.id)

    with pytest.raises(UnauthenticatedError):
        await control.authenticate(key)
    with pytest.raises(NotFoundError):
        await keys.revoke(home, made.id)


async def test_the_homes_key_is_not_revoked(home: Actor, keys: Keys) -> None:
    with pytest.raises(FailedPreconditionError, match="home"):
        await keys.revoke(home, home.key_id)


async def test_a_key_is_renamed(home: Actor, keys: Keys) -> None:
    made, _ = await keys.create(home, "a", API_KEY)

    await keys.rename(home, made.id, "b")

    assert [key.name for key in await keys.list(home)] == ["b"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "\x1b[31m", "\0"])
async def test_names_that_cannot_be_shown_are_refused(home: Actor, keys: Keys, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="1 to 100"):
        await keys.create(home, name, API_KEY)
    with pytest.raises(InvalidArgumentError, match="1 to 100"):
        await keys.create_team(home, name)


async def test_there_are_no_more_than_there_may_be(world: World) -> None:
    world.limits = small(max_keys=2, max_teams=2)
    async with world.server() as control:
        key = new_key(KeyKind.HOME)
        await access.set_home_key(world.api_keys, world.clock, key, name="home")
        home, keys = await control.authenticate(key), world.keys()
        await keys.create(home, "the home's own counts", API_KEY)
        with pytest.raises(ResourceExhaustedError, match="max_keys"):
            await keys.create(home, "c", API_KEY)
        await keys.create_team(home, "second")
        with pytest.raises(AlreadyExistsError):
            await keys.create_team(home, "second")
        with pytest.raises(ResourceExhaustedError, match="max_teams"):
            await keys.create_team(home, "third")
