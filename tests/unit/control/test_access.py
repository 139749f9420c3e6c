"""Keys and tokens."""

import re

import pytest
from fakes.world import World

from atoll.server.control import access
from atoll.server.control.service import Control
from atoll.server.domain.errors import UnauthenticatedError
from atoll.server.domain.ids import SandboxId


async def test_a_known_key_says_who_calls(world: World, control: Control) -> None:
    key = access.new_api_key()
    await access.add_key(world.api_keys, world.clock, key, name="first")
    await access.add_key(world.api_keys, world.clock, key, name="again")

    actor = await control.authenticate(key)

    assert (actor.team_id, actor.key_name) == (access.DEFAULT_TEAM, "first")


async def test_a_new_key_of_a_name_replaces_the_old_one(world: World, control: Control) -> None:
    old, new = access.new_api_key(), access.new_api_key()
    await access.add_key(world.api_keys, world.clock, other := access.new_api_key(), name="other")
    await access.set_key(world.api_keys, world.clock, old, name="home")
    await access.set_key(world.api_keys, world.clock, old, name="home")
    assert (await control.authenticate(old)).key_name == "home"

    await access.set_key(world.api_keys, world.clock, new, name="home")

    assert (await control.authenticate(new)).key_name == "home"
    assert (await control.authenticate(other)).key_name == "other"
    with pytest.raises(UnauthenticatedError):
        await control.authenticate(old)


@pytest.mark.parametrize(
    "key", [None, "", "e2b_" + "0" * 40, "x" * 1_000_000, "\0", "\ud800", "ключ", "' or 1=1 --"]
)
async def test_any_other_key_is_refused(world: World, control: Control, key: str | None) -> None:
    await access.add_key(world.api_keys, world.clock, access.new_api_key(), name="first")

    with pytest.raises(UnauthenticatedError) as caught:
        await control.authenticate(key)

    assert len(str(caught.value)) < 200


async def test_what_is_kept_of_a_key_is_no_key(world: World, control: Control) -> None:
    key = access.new_api_key()
    await access.add_key(world.api_keys, world.clock, key, name="first")

    with pytest.raises(UnauthenticatedError):
        await control.authenticate(access.hash_api_key(key))
    assert key not in (world.directory / "atoll.db").read_bytes().decode("latin-1")


def test_every_client_accepts_our_keys() -> None:
    # The strictest released client wants this form.
    assert re.fullmatch(r"e2b_[0-9a-f]{40}", access.new_api_key())
    assert access.new_api_key() != access.new_api_key()


def test_a_token_belongs_to_one_sandbox_and_one_secret() -> None:
    one, other = SandboxId("i" + "a" * 20), SandboxId("i" + "b" * 20)

    token = access.access_token(b"s" * 32, one)

    assert re.fullmatch(r"[0-9a-f]{64}", token)
    assert access.access_token(b"s" * 32, one) == token
    assert access.access_token(b"s" * 32, other) != token
    assert access.access_token(b"t" * 32, one) != token
