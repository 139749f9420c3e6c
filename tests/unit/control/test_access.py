"""Keys and tokens."""

import re
from datetime import timedelta

import pytest
from fakes.world import World

from atoll.server.control.rows import access
from atoll.server.control.service import Control
from atoll.server.domain.errors import ResourceExhaustedError, UnauthenticatedError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.keys import (
    DEFAULT_TEAM,
    USE_IS_NOTED_EVERY,
    ApiKey,
    KeyKind,
    hash_key,
    make_key,
    new_key,
)


async def given(world: World, key: str, name: str = "first") -> ApiKey:
    made = make_key(key, KeyKind.API_KEY, DEFAULT_TEAM, name, world.clock.now())
    await world.api_keys.add_api_key(made, most=10)
    return made


async def test_a_known_key_says_who_calls(world: World, control: Control) -> None:
    key = new_key(KeyKind.API_KEY)
    made = await given(world, key)

    actor = await control.authenticate(key)

    assert (actor.team_id, actor.key_id, actor.key_name) == (DEFAULT_TEAM, made.id, "first")
    assert actor.kind is KeyKind.API_KEY


async def test_the_homes_key_is_one_and_may_do_everything(world: World, control: Control) -> None:
    old, new, other = (new_key(KeyKind.HOME) for _ in range(3))
    await given(world, other, "other")
    for _ in range(2):
        await access.set_home_key(world.api_keys, world.clock, old, name="home")
        assert (await control.authenticate(old)).kind is KeyKind.HOME

    await access.set_home_key(world.api_keys, world.clock, new, name="home")

    assert (await control.authenticate(new)).key_name == "home"
    assert (await control.authenticate(other)).key_name == "other"
    with pytest.raises(UnauthenticatedError):
        await control.authenticate(old)


async def test_the_last_use_of_a_key_is_noted_to_the_minute(world: World, control: Control) -> None:
    key = new_key(KeyKind.API_KEY)
    made = await given(world, key)
    first = world.clock.now()

    for pause in (timedelta(), USE_IS_NOTED_EVERY / 2):
        world.clock.advance(pause)
        await control.authenticate(key)
        assert (await world.api_keys.get_api_key(made.id)).last_used_at == first
    world.clock.advance(USE_IS_NOTED_EVERY)
    await control.authenticate(key)

    assert (await world.api_keys.get_api_key(made.id)).last_used_at == world.clock.now()


async def test_who_has_a_key_may_call_though_the_disk_is_full(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key(KeyKind.API_KEY)
    await given(world, key)

    async def full(*_: object) -> None:
        raise ResourceExhaustedError("The host's disk is full")

    monkeypatch.setattr(world.api_keys, "use_api_key", full)

    assert (await control.authenticate(key)).key_name == "first"


@pytest.mark.parametrize(
    "key", [None, "", "e2b_" + "0" * 40, "x" * 1_000_000, "\0", "\ud800", "ключ", "' or 1=1 --"]
)
async def test_any_other_key_is_refused(world: World, control: Control, key: str | None) -> None:
    await given(world, new_key(KeyKind.API_KEY))

    with pytest.raises(UnauthenticatedError) as caught:
        await control.authenticate(key)

    assert len(str(caught.value)) < 200


async def test_what_is_kept_of_a_key_is_no_key(world: World, control: Control) -> None:
    key = new_key(KeyKind.API_KEY)
    await given(world, key)

    with pytest.raises(UnauthenticatedError):
        await control.authenticate(hash_key(key))
    assert key not in (world.directory / "atoll.db").read_bytes().decode("latin-1")


@pytest.mark.parametrize("kind", [KeyKind.HOME, KeyKind.API_KEY])
def test_every_client_accepts_our_keys(kind: KeyKind) -> None:
    # The strictest released client wants this form.
    assert re.fullmatch(r"e2b_[0-9a-f]{40}", new_key(kind))
    assert new_key(kind) != new_key(kind)


def test_a_token_belongs_to_one_sandbox_and_one_secret() -> None:
    one, other = SandboxId("i" + "a" * 20), SandboxId("i" + "b" * 20)

    token = access.access_token(b"s" * 32, one)

    assert re.fullmatch(r"[0-9a-f]{64}", token)
    assert access.access_token(b"s" * 32, one) == token
    assert access.access_token(b"s" * 32, other) != token
    assert access.access_token(b"t" * 32, one) != token
