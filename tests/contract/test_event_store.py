"""Every promise of ports/events.py, and that rows and events are written together or not at all."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from contract.test_snapshot_store import making
from contract.test_store import TEAM, make
from fakes.events import events_in, sandboxes_in, snapshots_in
from fakes.teams import add_teams

from atoll.server.control.watching.events import EventLimits
from atoll.server.domain.errors import AbortedError
from atoll.server.domain.events import EventType
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.domain.team_history import Change
from atoll.server.ports.events import EventQuery
from atoll.server.ports.snapshots import SnapshotStore
from atoll.server.ports.store import Store
from atoll.server.runtimes.fake.clock import FakeClock
from atoll.server.stores.database import Database
from atoll.server.stores.events import SqliteEvents

HOUR = timedelta(hours=1)


class Kept:
    """Rows and what they tell."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FakeClock()
        self.rows: Store = sandboxes_in(database, self.clock)
        self.snapshots: SnapshotStore = snapshots_in(database, self.clock)
        self.events = SqliteEvents(database)

    async def life(self, *, team_id: TeamId = TEAM, updates: int = 0, killed: bool = True) -> SandboxId:
        """Live a life: created, updated, killed."""
        row = make(team_id=team_id, status=Status.CREATING, started_at=None)
        await self.rows.add_sandbox(row)
        row = await self.change(row, status=Status.RUNNING, started_at=self.clock.now())
        for _ in range(updates):
            row = await self.change(row, deadline=row.deadline + HOUR)
        if killed:
            row = await self.change(row, status=Status.KILLING)
            row = await self.change(row, status=Status.KILLED, ended_at=self.clock.now())
        return row.id

    async def change(self, row: Sandbox, **changes: object) -> Sandbox:
        new = replace(row, **changes)  # type: ignore[arg-type]
        await self.rows.replace_sandbox(row, new)
        return new

    async def types(self, **query: object) -> list[str]:
        found = await self.events.list_events(EventQuery(team_id=TEAM, **query))  # type: ignore[arg-type]
        return [event.type.name for event in found]


def refuse_events(database: Database) -> None:
    with database.transaction(writes=True) as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    async with Database(None) as database:
        await add_teams(database, TEAM, "other")
        yield Kept(database)


async def test_a_life_is_told_in_its_order(kept: Kept) -> None:
    await kept.life(updates=2)

    assert await kept.types(oldest_first=True) == ["CREATED", "UPDATED", "UPDATED", "KILLED"]
    assert await kept.types() == ["KILLED", "UPDATED", "UPDATED", "CREATED"]
    assert await kept.types(limit=1) == ["KILLED"]
    assert await kept.types(limit=2, offset=1) == ["UPDATED", "UPDATED"]
    assert await kept.types(offset=4) == []
    assert await kept.types(types=(EventType.KILLED, EventType.CREATED)) == ["KILLED", "CREATED"]
    assert await kept.types(types=(EventType.PAUSED,)) == []


async def test_sandboxes_and_teams_are_kept_apart(kept: Kept) -> None:
    mine, stranger = await kept.life(), await kept.life(team_id=TeamId("other"))
    again = await kept.life(killed=False)

    assert await kept.types(sandbox_id=mine) == ["KILLED", "CREATED"]
    assert await kept.types(sandbox_id=again) == ["CREATED"]
    assert await kept.types(sandbox_id=stranger) == []
    assert len(await kept.types()) == 3


async def test_turns_are_what_changes_how_many_run(kept: Kept) -> None:
    await kept.life(updates=2)
    await kept.life(team_id=TeamId("other"))
    row = make(team_id=TEAM, status=Status.RUNNING)
    await kept.rows.add_sandbox(row)
    for status in (Status.PAUSING, Status.PAUSED, Status.RESUMING, Status.RUNNING, Status.PAUSING):
        row = await kept.change(row, status=status)
    for status in (Status.PAUSED, Status.KILLING):
        row = await kept.change(row, status=status)

    turns = await kept.events.list_turns(TEAM, before=None, limit=100)

    assert [turn.change for turn in turns] == [
        Change.NONE, Change.ENDED, Change.RESUMED, Change.ENDED, Change.ENDED, Change.STARTED,
    ]  # fmt: skip
    assert {turn.at for turn in turns} == {kept.clock.now()}
    pages = [*await kept.events.list_turns(TEAM, before=None, limit=2)]
    pages += await kept.events.list_turns(TEAM, before=pages[-1].place, limit=100)
    assert pages == turns


async def test_how_far_back_a_team_has_its_last_events(kept: Kept) -> None:
    first = kept.clock.now()
    await kept.life(updates=1)
    kept.clock.advance(HOUR)
    await kept.life()

    assert await kept.events.kept_since(TEAM, most=6) is None
    assert await kept.events.kept_since(TEAM, most=5) == first
    assert await kept.events.kept_since(TEAM, most=2) == kept.clock.now()


async def test_an_event_outlives_its_sandbox(kept: Kept) -> None:
    sandbox_id = await kept.life()
    kept.clock.advance(HOUR)

    assert await kept.rows.forget_sandboxes(ended_before=kept.clock.now(), most=10) == 1

    assert await kept.types(sandbox_id=sandbox_id) == ["KILLED", "CREATED"]


async def test_a_change_that_is_refused_tells_nothing(kept: Kept) -> None:
    row = make(status=Status.CREATING)
    await kept.rows.add_sandbox(row)

    with pytest.raises(AbortedError):
        await kept.change(replace(row, generation=7), status=Status.RUNNING)

    assert await kept.types() == []


async def test_an_event_that_cannot_be_written_takes_the_change_with_it(kept: Kept) -> None:
    row = make(status=Status.CREATING)
    await kept.rows.add_sandbox(row)
    refuse_events(kept.database)

    with pytest.raises(Exception, match="The database failed"):
        await kept.change(row, status=Status.RUNNING)

    assert (await kept.rows.get_sandbox(row.id)).status is Status.CREATING


async def test_a_snapshot_is_told_when_it_is_ready(kept: Kept) -> None:
    row = make(team_id=TEAM, status=Status.RUNNING, metadata={"a": "b"})
    await kept.rows.add_sandbox(row)
    taken = making(team_id=TEAM, sandbox_id=row.id)
    await kept.snapshots.add_snapshot(taken, most=9)
    kept.clock.advance(HOUR)
    assert await kept.types() == []

    await kept.snapshots.finish_snapshot(taken.id, None, 1)

    (event,) = await kept.events.list_events(EventQuery(team_id=TEAM))
    assert (event.type, event.sandbox_id) == (EventType.CHECKPOINTED, row.id)
    assert event.data == {"sandbox_metadata": {"a": "b"}, "snapshot_id": taken.id}
    assert event.at == kept.clock.now()


async def test_a_snapshot_that_outlived_its_sandbox_is_told(kept: Kept) -> None:
    taken = making(team_id=TEAM)
    await kept.snapshots.add_snapshot(taken, most=9)

    await kept.snapshots.finish_snapshot(taken.id, None, 1)

    (event,) = await kept.events.list_events(EventQuery(team_id=TEAM))
    assert event.data == {"snapshot_id": taken.id}


async def test_a_snapshot_whose_event_cannot_be_written_is_not_ready(kept: Kept) -> None:
    taken = making(team_id=TEAM)
    await kept.snapshots.add_snapshot(taken, most=9)
    refuse_events(kept.database)

    with pytest.raises(Exception, match="The database failed"):
        await kept.snapshots.finish_snapshot(taken.id, None, 1)

    assert await kept.snapshots.find_snapshot(TEAM, taken.id) is None


async def test_what_is_old_is_forgotten_a_few_at_a_time(kept: Kept) -> None:
    await kept.life(updates=8, killed=False)
    kept.clock.advance(HOUR)
    await kept.life()
    before = kept.clock.now()

    assert await kept.events.forget_events(before=before, most=5) == 5
    assert await kept.events.forget_events(before=before, most=5) == 4
    assert await kept.events.forget_events(before=before, most=5) == 0
    assert await kept.types() == ["KILLED", "CREATED"]


async def test_each_team_has_room_of_its_own(kept: Kept) -> None:
    other = await kept.life(team_id=TeamId("other"))
    await kept.life(updates=5)

    assert await kept.events.forget_excess(TEAM, keep=3, most=2) == 2
    assert await kept.events.forget_excess(TEAM, keep=3, most=100) == 2
    assert await kept.events.forget_excess(TEAM, keep=3, most=100) == 0

    assert await kept.types() == ["KILLED", "UPDATED", "UPDATED"]
    theirs = await kept.events.list_events(EventQuery(team_id=TeamId("other"), sandbox_id=other))
    assert len(theirs) == 2
    teams = [await kept.events.next_team(TeamId(after)) for after in ("", "other", "team")]
    assert teams == ["other", "team", None]


async def test_a_number_is_never_given_twice(kept: Kept) -> None:
    await kept.life()
    kept.clock.advance(HOUR)
    await kept.events.forget_events(before=kept.clock.now(), most=100)
    await kept.life(killed=False)

    with kept.database.transaction(writes=False) as connection:
        assert connection.exec_driver_sql("SELECT seq FROM events").scalars().all() == [3]


async def test_listing_looks_at_indexes_only(kept: Kept) -> None:
    """However many events there are, rows of other types, sandboxes and teams are not read."""
    with kept.database.transaction(writes=False) as connection:
        for where, index in (
            ("team_id = 't' AND type IN ('a', 'b')", "events_by_team"),
            ("team_id = 't' AND sandbox_id = 's' AND type IN ('a')", "events_by_sandbox"),
        ):
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN SELECT * FROM events WHERE {where} ORDER BY seq DESC LIMIT 10"
            )
            text = str(plan.all())
            assert index in text
            assert "TEMP B-TREE" not in text


async def test_the_sweep_keeps_what_the_settings_say(kept: Kept) -> None:
    await kept.life(updates=20)
    kept.clock.advance(8 * 24 * HOUR)
    young = await kept.life(updates=20)
    await kept.life(team_id=TeamId("other"))
    limits = EventLimits(keep=timedelta(days=7), most=5, forgotten_at_once=3)

    async with asyncio.TaskGroup() as group:
        sweep = group.create_task(events_in(kept.database, kept.clock, limits).run())
        await kept.clock.slept_until(kept.clock.now() + limits.forget_every)
        sweep.cancel()

    assert await kept.types(limit=100) == ["KILLED", *["UPDATED"] * 4]
    assert await kept.types(limit=100, sandbox_id=young) == ["KILLED", *["UPDATED"] * 4]
    assert len(await kept.events.list_events(EventQuery(team_id=TeamId("other")))) == 2
