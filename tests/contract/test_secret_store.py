"""Every promise of ports/secrets.py."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fakes.teams import add_teams

from atoll.server.domain.errors import (
    AlreadyExistsError,
    InternalError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
)
from atoll.server.domain.ids import TeamId
from atoll.server.domain.secret import Secret, new_secret_id
from atoll.server.ports.secrets import SecretStore
from atoll.server.stores.database import Database
from atoll.server.stores.secrets import SqliteSecrets

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
TEAM, OTHER = TeamId("team"), TeamId("other")
KEY = b"k" * 32


@pytest.fixture
async def store() -> AsyncIterator[SecretStore]:
    async with Database(None) as database:
        await add_teams(database, TEAM, OTHER)
        yield SqliteSecrets(database, secret=KEY)


def made(name: str, team_id: TeamId = TEAM) -> Secret:
    return Secret(id=new_secret_id(), team_id=team_id, name=name, version=1, created_at=NOON, updated_at=NOON)


async def test_a_secret_is_found_by_id_and_by_name(store: SecretStore) -> None:
    secret = made("a")
    await store.add_secret(secret, "value", most=10)

    assert await store.get_secret(TEAM, "a") == await store.get_secret(TEAM, secret.id) == secret
    assert await store.secret_values(TEAM, ["a", "b"]) == {"a": "value"}
    for key in ("b", "", "A"):
        with pytest.raises(NotFoundError):
            await store.get_secret(TEAM, key)


async def test_other_teams_see_nothing(store: SecretStore) -> None:
    secret = made("a")
    await store.add_secret(secret, "value", most=1)
    await store.add_secret(made("a", OTHER), "another", most=1)

    assert await store.secret_values(OTHER, ["a"]) == {"a": "another"}
    assert [one.id for one in await store.list_secrets(TEAM, after="", limit=10)] == [secret.id]
    assert not await store.delete_secret(OTHER, secret.id)
    with pytest.raises(NotFoundError):
        await store.replace_value(OTHER, secret.id, "mine", None, LATER)


async def test_names_and_numbers_are_kept(store: SecretStore) -> None:
    await store.add_secret(made("a"), "value", most=2)
    with pytest.raises(AlreadyExistsError):
        await store.add_secret(made("a"), "other", most=2)
    await store.add_secret(made("b"), "value", most=2)
    with pytest.raises(ResourceExhaustedError) as caught:
        await store.add_secret(made("c"), "value", most=2)

    assert caught.value.reason is Reason.LIMIT_OF_SECRETS
    assert await store.secret_values(TEAM, ["a"]) == {"a": "value"}


async def test_each_value_is_a_version(store: SecretStore) -> None:
    secret = made("a")
    await store.add_secret(secret, "first", most=2)

    second = await store.replace_value(TEAM, "a", "second", {"why": "rotated"}, LATER)
    third = await store.replace_value(TEAM, secret.id, "third", None, LATER)

    assert (second.version, third.version) == (2, 3)
    assert second.metadata == third.metadata == {"why": "rotated"}
    assert (third.created_at, third.updated_at) == (NOON, LATER)
    assert await store.secret_values(TEAM, ["a"]) == {"a": "third"}


async def test_lists_go_by_name(store: SecretStore) -> None:
    for name in "cab":
        await store.add_secret(made(name), "value", most=9)

    first = await store.list_secrets(TEAM, after="", limit=2)
    rest = await store.list_secrets(TEAM, after=first[-1].name, limit=2)

    assert [one.name for one in (*first, *rest)] == ["a", "b", "c"]


async def test_what_is_deleted_is_gone(store: SecretStore) -> None:
    await store.add_secret(made("a"), "value", most=1)

    assert await store.delete_secret(TEAM, "a")
    assert not await store.delete_secret(TEAM, "a")
    assert await store.secret_values(TEAM, ["a"]) == {}


async def test_values_cannot_be_read_in_the_file_or_with_another_key(tmp_path: Path) -> None:
    file = tmp_path / "atoll.db"
    async with Database(file) as database:
        await add_teams(database, TEAM)
        store = SqliteSecrets(database, secret=KEY)
        await store.add_secret(made("a"), "a-value-in-the-clear", most=2)
        await store.add_secret(made("b"), "a-value-in-the-clear", most=2)
        with pytest.raises(InternalError, match="cannot be read"):
            await SqliteSecrets(database, secret=b"x" * 32).secret_values(TEAM, ["a"])
        with database.transaction(writes=True) as connection:
            connection.exec_driver_sql(
                "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'b') WHERE name = 'a'"
            )
        with pytest.raises(InternalError, match="cannot be read"):
            await store.secret_values(TEAM, ["a"])

    for part in tmp_path.iterdir():
        assert b"in-the-clear" not in part.read_bytes()
        assert part.stat().st_mode & 0o077 == 0
