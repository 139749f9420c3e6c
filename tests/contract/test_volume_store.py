"""Every promise of ports/volumes.py about rows."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from contract.test_store import TEAM, make
from fakes.events import sandboxes_in
from fakes.teams import add_teams

from atoll.server.domain.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from atoll.server.domain.ids import TeamId, new_volume_id
from atoll.server.domain.sandbox import Status
from atoll.server.domain.volume import Volume, VolumeMount
from atoll.server.stores.database import Database
from atoll.server.stores.volumes import SqliteVolumes

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
OTHERS = TeamId("others")


def volume(name: str = "one", team: TeamId = TEAM) -> Volume:
    return Volume(id=new_volume_id(), team_id=team, name=name, size_bytes=2**40, created_at=NOON)


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    async with Database(None) as opened:
        await add_teams(opened, TEAM, OTHERS)
        yield opened


@pytest.fixture
def store(database: Database) -> SqliteVolumes:
    return SqliteVolumes(database)


async def test_a_row_reads_as_it_was_written(store: SqliteVolumes) -> None:
    row = volume()
    await store.add_volume(row, most=1)

    assert await store.get_volume(row.id) == row
    assert await store.find_volume(TEAM, "one") == row
    assert await store.find_volume(OTHERS, "one") is None
    assert await store.list_volumes(TEAM) == await store.list_volumes(None) == [row]
    assert await store.list_volumes(OTHERS) == []


async def test_a_name_is_taken_once_in_a_team(store: SqliteVolumes) -> None:
    await store.add_volume(volume(), most=9)
    await store.add_volume(volume(team=OTHERS), most=9)

    with pytest.raises(AlreadyExistsError, match="'one' exists"):
        await store.add_volume(volume(), most=9)


async def test_a_list_comes_in_parts_oldest_first(store: SqliteVolumes) -> None:
    rows = [
        replace(volume(f"n{number}"), created_at=NOON + timedelta(seconds=number // 2)) for number in range(5)
    ]
    for row in reversed(rows):
        await store.add_volume(row, most=9)
    await store.add_volume(volume("another's", team=OTHERS), most=9)
    wanted = sorted(rows, key=lambda row: (row.created_at, row.id))

    first = await store.list_volumes(TEAM, limit=3)
    rest = await store.list_volumes(TEAM, after=(first[-1].created_at, first[-1].id), limit=3)

    assert [*first, *rest] == wanted
    assert await store.list_volumes(TEAM) == wanted


async def test_there_is_a_most(store: SqliteVolumes) -> None:
    await store.add_volume(volume(), most=1)

    with pytest.raises(ResourceExhaustedError, match="most volumes"):
        await store.add_volume(volume("two"), most=1)


async def test_what_a_sandbox_has_stays_until_it_ends(database: Database, store: SqliteVolumes) -> None:
    row, sandboxes = volume(), sandboxes_in(database)
    await store.add_volume(row, most=9)
    has = make(volumes=(VolumeMount(volume_id=row.id, name=row.name, path="/data"),))
    await sandboxes.add_sandbox(has)

    with pytest.raises(FailedPreconditionError, match="in use"):
        await store.remove_volume(row.id)
    await sandboxes.replace_sandbox(has, replace(has, status=Status.KILLED))
    await store.remove_volume(row.id)
    await store.remove_volume(row.id)

    with pytest.raises(NotFoundError):
        await store.get_volume(row.id)
