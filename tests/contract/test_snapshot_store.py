"""Every promise of ports/snapshots.py."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fakes.events import snapshots_in
from fakes.teams import add_teams

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import NotFoundError, ResourceExhaustedError
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.snapshot import Snapshot, SnapshotStatus, new_snapshot_id
from atoll.server.ports.snapshots import SnapshotQuery, SnapshotStore
from atoll.server.stores.database import Database

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEAM, OTHER = TeamId("team"), TeamId("other")


@pytest.fixture
async def store() -> AsyncIterator[SnapshotStore]:
    async with Database(None) as database:
        await add_teams(database, TEAM, OTHER)
        yield snapshots_in(database)


def making(**changes: Any) -> Snapshot:
    snapshot = Snapshot(
        id=new_snapshot_id(),
        team_id=TEAM,
        sandbox_id=SandboxId("i" + "a" * 20),
        template_id=TemplateId("base-1"),
        template_alias="base",
        kind=CheckpointKind.MEMORY,
        generation=3,
        limits=Limits(cpus=0.5, memory_bytes=1, processes=2, disk_bytes=2**40),
        env={"A": "b"},
        status=SnapshotStatus.MAKING,
        created_at=NOON,
    )
    return replace(snapshot, **changes)


async def ready(store: SnapshotStore, name: str | None = None, **changes: Any) -> Snapshot:
    snapshot = making(**changes)
    await store.add_snapshot(snapshot, most=100)
    return await store.finish_snapshot(snapshot.id, name, 2**40)


async def test_those_of_a_schedule_are_told_from_the_others(store: SnapshotStore) -> None:
    mine, theirs = await ready(store, "mine"), await ready(store, scheduled=True)

    def query(scheduled: bool | None) -> SnapshotQuery:
        return SnapshotQuery(team_id=TEAM, scheduled=scheduled)

    assert await store.list_snapshots(query(False)) == [mine]
    assert await store.list_snapshots(query(True)) == [theirs]
    assert {one.id for one in await store.list_snapshots(query(None))} == {mine.id, theirs.id}


async def test_nobody_finds_one_before_it_is_ready(store: SnapshotStore) -> None:
    snapshot = making()
    await store.add_snapshot(snapshot, most=1)
    assert await store.find_snapshot(TEAM, snapshot.id) is None
    assert await store.list_snapshots(SnapshotQuery(team_id=TEAM)) == []
    assert await store.all_snapshots() == [snapshot]

    kept_back = await store.finish_snapshot(snapshot.id, None, 7, is_ready=False)

    assert kept_back == replace(snapshot, size_bytes=7)
    assert await store.find_snapshot(TEAM, snapshot.id) is None
    assert await store.list_snapshots(SnapshotQuery(team_id=TEAM)) == []

    finished = await store.finish_snapshot(snapshot.id, "name", 7)

    assert finished == replace(snapshot, name="name", size_bytes=7, status=SnapshotStatus.READY)
    for key in (snapshot.id, "name"):
        assert await store.find_snapshot(TEAM, key) == finished
        assert await store.find_snapshot(OTHER, key) is None


async def test_the_newest_of_a_name_has_it(store: SnapshotStore) -> None:
    foreign = await ready(store, "name", team_id=OTHER)
    first, second = await ready(store, "name"), await ready(store, "name")

    assert await store.find_snapshot(TEAM, "name") == second
    assert await store.find_snapshot(TEAM, first.id) == replace(first, name=None)
    assert await store.find_snapshot(OTHER, "name") == foreign


async def test_lists_are_newest_first_and_come_in_parts(store: SnapshotStore) -> None:
    other = SandboxId("i" + "b" * 20)
    made = [await ready(store, created_at=NOON + timedelta(seconds=n // 2)) for n in range(5)]
    of_other = await ready(store, "named", sandbox_id=other, created_at=NOON - timedelta(days=1))
    await ready(store, team_id=OTHER)
    expected = [*sorted(made, key=lambda one: (one.created_at, one.id), reverse=True), of_other]

    assert await store.list_snapshots(SnapshotQuery(team_id=TEAM)) == expected
    found: list[Snapshot] = []
    query = SnapshotQuery(team_id=TEAM, limit=2)
    while part := await store.list_snapshots(query):
        assert len(part) == 2
        found += part
        query = replace(query, after=(part[-1].created_at, part[-1].id))
    assert found == expected
    for wanted in (SnapshotQuery(team_id=TEAM, sandbox_id=other), SnapshotQuery(team_id=TEAM, name="named")):
        assert await store.list_snapshots(wanted) == [of_other]


async def test_a_team_has_no_more_than_it_may(store: SnapshotStore) -> None:
    await store.add_snapshot(making(), most=1)
    await store.add_snapshot(making(team_id=OTHER), most=1)

    with pytest.raises(ResourceExhaustedError, match="1"):
        await store.add_snapshot(making(), most=1)


async def test_what_is_deleted_is_gone(store: SnapshotStore) -> None:
    snapshot = await ready(store, "name")

    assert await store.delete_snapshot(snapshot.id)
    assert not await store.delete_snapshot(snapshot.id)
    assert await store.find_snapshot(TEAM, "name") is None
    with pytest.raises(NotFoundError):
        await store.finish_snapshot(snapshot.id, None, 1)
