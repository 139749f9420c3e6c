"""What is persistent is written down before its machine goes: by ``atoll park``, and by ``atoll down``."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.events import sandboxes_in, team_metrics_in
from fakes.world import ALICE, World, small, turns, wish

from atoll.server.control.machines.killing import End
from atoll.server.control.service import Control
from atoll.server.control.upkeep.reviving import Reviving
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.events import Event, EventType
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.keys import DEFAULT_TEAM
from atoll.server.domain.sandbox import EndReason, Sandbox, Status, Target
from atoll.server.domain.upkeep import Restart, Upkeep
from atoll.server.ports.events import EventQuery
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.stores.events import SqliteEvents

PERSISTENT = Upkeep(persistent=True, restart=Restart.FROM_SNAPSHOT)
FULL = ResourceExhaustedError("The disk is full")


async def started(world: World, control: Control, upkeep: Upkeep = PERSISTENT, **changes: Any) -> Sandbox:
    sandbox = await control.create(ALICE, wish(upkeep=upkeep, **changes))
    world.runtime.remember(sandbox.id, "now")
    return sandbox


def ends_at(world: World, sandbox_id: SandboxId, place: str) -> None:
    """Have its machine end when a place is reached, and what is done there fail."""
    at = world.faults.at

    async def ending(passed: str) -> None:
        if passed != place:
            return await at(passed)
        world.faults.at = at  # type: ignore[method-assign]
        world.runtime.end(sandbox_id, EndReason.RUNTIME_ENDED)
        raise UnavailableError("Its machine is gone")

    world.faults.at = ending  # type: ignore[method-assign]


async def came_back(world: World, control: Control, sandbox_id: SandboxId) -> tuple[str, str]:
    """Wait until it runs again; return what it holds."""
    beside = sandboxes_in(world.database)
    await control.settled()
    row = await beside.get_sandbox(sandbox_id)
    assert (row.status, row.generation) == (Status.RUNNING, 2)
    return world.runtime.recall(sandbox_id)


async def test_parked_is_what_is_persistent_and_the_rest_runs_on(world: World) -> None:
    async with world.server() as control:
        kept = await started(world, control)
        other = await started(world, control, Upkeep())
        asleep = await started(world, control)
        await control.pausing.pause(ALICE, asleep.id, CheckpointKind.MEMORY)

        assert (await control.park()).left == {}

        rows = await world.rows()
        assert (rows[kept.id].status, rows[kept.id].target) == (Status.PAUSED, Target.RUNNING)
        assert (rows[asleep.id].status, rows[asleep.id].target) == (Status.PAUSED, Target.PAUSED)
        assert world.runtime.running() == {other.id}
    world.renew(Faults())

    async with world.server() as control:
        assert await came_back(world, control, kept.id) == ("now", "now")
        rows = await world.rows()
        assert rows[other.id].status is Status.RUNNING
        assert rows[asleep.id].status is Status.PAUSED
        await world.assert_agreement()


async def test_where_the_memory_cannot_be_written_down_the_files_are(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.fail("checkpoint:1", FULL)

        assert (await control.park()).left == {}
    world.renew(Faults())

    async with world.server() as control:
        assert await came_back(world, control, sandbox.id) == ("", "now")
        await world.assert_agreement()


@pytest.mark.parametrize(
    ("failed", "events"),
    [(1, [EventType.CREATED, EventType.PAUSED, EventType.RESUMED]), (2, [EventType.CREATED])],
)
async def test_its_owner_is_told_what_became_of_it_and_not_of_each_round(
    world: World, failed: int, events: list[EventType]
) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.fail("checkpoint:1", FULL, times=failed)
        await control.park()
    world.renew(Faults())

    async with world.server() as control:
        await control.settled()
        history = await team_metrics_in(world.database, world.keys(), world.clock).history(
            ALICE, DEFAULT_TEAM, start=world.clock.now() - timedelta(hours=1)
        )
        assert [event.type for event in await told(world, sandbox.id)] == events
        assert history is not None
        assert history.most_running()[1] == 1


async def told(world: World, sandbox_id: SandboxId) -> Sequence[Event]:
    query = EventQuery(team_id=DEFAULT_TEAM, sandbox_id=sandbox_id, limit=100, oldest_first=True)
    return await SqliteEvents(world.database).list_events(query)


async def test_what_hangs_costs_half_of_the_time_and_then_has_its_files(tmp_path: Path) -> None:
    # Half of it is waited for; the rest is for what is done then, on a busy machine, too.
    world = World(tmp_path, small(park_timeout=timedelta(seconds=4)))
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.hang("checkpoint:1")

        assert (await control.park()).left == {}
    world.renew(Faults())

    async with world.server() as control:
        assert await came_back(world, control, sandbox.id) == ("", "now")


async def test_what_is_cut_off_once_it_is_on_the_disk_is_kept_with_its_memory(tmp_path: Path) -> None:
    world = World(tmp_path, small(park_timeout=timedelta(seconds=4)))
    async with world.server() as control:
        sandbox = await started(world, control)
        # After it was written down.
        world.faults.hang("forget")

        parked = await control.park()

        assert (parked.left, parked.kept) == ({}, {sandbox.id: CheckpointKind.MEMORY})
        row = await world.store.get_sandbox(sandbox.id)
        assert (row.status, row.target) == (Status.PAUSED, Target.RUNNING)
        await world.assert_agreement()


async def test_what_is_not_written_down_in_time_is_named_and_runs_on(tmp_path: Path) -> None:
    world = World(tmp_path, small(park_timeout=timedelta(seconds=0.2)))
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.hang("checkpoint:1", times=2)

        left = (await control.park()).left

        assert set(left) == {sandbox.id}
        assert isinstance(left[sandbox.id], DeadlineExceededError)
        assert (await world.store.get_sandbox(sandbox.id)).status is Status.RUNNING
        assert world.runtime.running() == {sandbox.id}
        await world.assert_agreement()


async def test_what_cannot_be_written_down_keeps_the_home_up(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        other = await started(world, control, Upkeep())
        world.faults.fail("checkpoint:1", FULL, times=2)

        with pytest.raises(FailedPreconditionError) as refused:
            await control.kill_all("taken down")

        assert sandbox.id in str(refused.value.details)
        assert "The disk is full" in str(refused.value.details)
        assert "--force" in str(refused.value.resolution)
        assert world.runtime.running() == {sandbox.id, other.id}
    world.renew(Faults())

    async with world.server() as control:
        assert world.runtime.recall(sandbox.id) == ("now", "now")
        assert (await control.get(ALICE, sandbox.id)).generation == 1
        await world.assert_agreement()


@pytest.mark.parametrize(("snapshot", "had"), [(True, ("snapshot", "snapshot")), (False, ("", ""))])
async def test_by_force_it_ends_and_comes_back_from_its_snapshot_or_anew(
    world: World, snapshot: bool, had: tuple[str, str]
) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        if snapshot:
            world.runtime.remember(sandbox.id, "snapshot")
            await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
            world.runtime.remember(sandbox.id, "now")
        world.faults.fail("checkpoint:1", FULL, times=2)
        await control.kill_all("taken down", force=True)
        assert world.runtime.running() == set()
    world.renew(Faults())

    async with world.server() as control:
        assert await came_back(world, control, sandbox.id) == had


async def test_a_guest_that_hung_when_it_was_written_down_is_booted_from_its_files(tmp_path: Path) -> None:
    world = World(tmp_path, small(restart_delay=timedelta()))
    async with world.server() as control:
        sandbox = await started(world, control)
        await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
        world.runtime.remember(sandbox.id, "newer")
        await control.park()
    faults = Faults()
    faults.fail("configure", UnavailableError("no answer"), times=world.limits.restart_tries)
    world.renew(faults)

    async with world.server() as control:
        await control.settled()

        row = await world.store.get_sandbox(sandbox.id)
        assert (row.status, row.fall is not None and row.fall.problem) == (Status.RUNNING, None)
        assert world.runtime.recall(sandbox.id) == ("", "newer")
        await world.assert_agreement()


async def test_what_it_has_is_kept_where_not_even_its_files_come_back(tmp_path: Path) -> None:
    world = World(tmp_path, small(restart_delay=timedelta()))
    async with world.server() as control:
        sandbox = await started(world, control)
        await control.park()
    faults = Faults()
    # The last one: that which only writes its files down.
    faults.fail("restore:1", UnavailableError("no room"), times=world.limits.restart_tries + 1)
    world.renew(faults)

    async with world.server() as control:
        await control.settled()

        row = await world.store.get_sandbox(sandbox.id)
        assert (row.status, row.fall is not None and row.fall.problem) == (Status.PAUSED, "no room")
        await control.pausing.connect(ALICE, sandbox.id, timedelta(minutes=1))
        assert world.runtime.recall(sandbox.id) == ("now", "now")
        await control.settled()
        await world.assert_agreement()


async def test_what_was_written_down_and_is_refused_is_not_thrown_away_for_a_snapshot(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        world.clock.advance(timedelta(minutes=1))
        await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
        world.clock.advance(timedelta(minutes=1))
        world.runtime.remember(sandbox.id, "newer")
        await control.park()
    faults = Faults()
    faults.fail("restore:1", FailedPreconditionError("This processor has less"))
    world.renew(faults)

    async with world.server() as control:
        await control.settled()

        row = await world.store.get_sandbox(sandbox.id)
        assert row.status is Status.PAUSED
        assert row.fall is not None
        assert row.fall.problem == "This processor has less"
        # As on the machine that it was written down on.
        await control.pausing.connect(ALICE, sandbox.id, timedelta(minutes=1))
        assert world.runtime.recall(sandbox.id) == ("newer", "newer")


async def test_who_parks_again_finds_what_is_parked_and_does_not_bring_it_back(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        first = await control.park()
    world.renew(Faults())

    async with world.database, world.control(revives=False) as control:
        await turns(100)
        assert await control.park() == first
        assert first.kept == {sandbox.id: CheckpointKind.MEMORY}
        assert world.faults.passed["restore:1"] == 0
        assert (await world.store.get_sandbox(sandbox.id)).generation == 1
    world.renew(Faults())

    async with world.server() as control:
        assert await came_back(world, control, sandbox.id) == ("now", "now")


@pytest.mark.parametrize("place", [None, "checkpoint:1"])
async def test_one_that_ends_before_it_is_written_down_or_meanwhile_is_no_obstacle(
    world: World, place: str | None
) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        if place is None:
            world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
        else:
            ends_at(world, sandbox.id, place)

        assert (await control.park()).left == {}
        await control.settled()
        assert (await world.store.get_sandbox(sandbox.id)).status is Status.PAUSED


async def test_a_fall_that_is_told_twice_ends_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_down = Reviving.lay_down

    async def late(reviving: Reviving, sandbox_id: SandboxId, end: End) -> bool:
        if end.detail == "no machine was there when the server started":
            # By then, parking it has failed, and that has laid it down.
            while (await world.store.get_sandbox(sandbox_id)).status is not Status.PAUSED:
                await turns()
        return await lay_down(reviving, sandbox_id, end)

    async with world.server() as control:
        fell = await started(world, control)
        await control.snapshots.take(ALICE, fell.id, None, CheckpointKind.MEMORY)
    world.runtime.end_unseen(fell.id)
    world.renew(Faults())
    monkeypatch.setattr(Reviving, "lay_down", late)

    async with world.server() as control:
        await control.kill_all("taken down")
    world.renew(Faults())
    async with world.server() as control:
        assert await came_back(world, control, fell.id) == ("now", "now")


@pytest.mark.parametrize("upkeep", [PERSISTENT, Upkeep(restart=Restart.FROM_SNAPSHOT)])
async def test_nothing_is_left_of_who_fell_before_the_home_is_taken_down(
    world: World, upkeep: Upkeep
) -> None:
    async with world.server() as control:
        fell = await started(world, control, upkeep)
        await control.snapshots.take(ALICE, fell.id, None, CheckpointKind.MEMORY)
    # As the machine leaves it that restarts.
    world.runtime.end_unseen(fell.id)
    world.renew(Faults())

    async with world.server() as control:
        # Before anything brings it back.
        await control.kill_all("taken down")
        assert await world.runtime.remains() == []
    world.renew(Faults())
    async with world.server() as control:
        if upkeep.persistent:
            assert await came_back(world, control, fell.id) == ("now", "now")


async def test_nobody_is_forked_once_all_is_to_stand_still(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.server() as control:
        sandbox = await started(world, control, Upkeep())
        await control.park()

        forks = await control.snapshots.fork(ALICE, sandbox.id, 2, timedelta(minutes=1))

        assert [str(fork) for fork in forks] == ["The server is stopping"] * 2
        assert set(await world.rows()) == {sandbox.id}
        await control.settled()
        assert await world.runtime.remains() == [sandbox.id]


async def test_a_create_that_was_let_in_before_all_stands_still_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    async with world.server() as control:
        find = control.snapshots.find

        async def slow(*asked: Any) -> Any:
            await control.kill_all("taken down")
            return await find(*asked)

        monkeypatch.setattr(control.snapshots, "find", slow)

        with pytest.raises(UnavailableError, match="The server is stopping"):
            await control.create(ALICE, wish())

        assert await world.rows() == {}
        assert await world.runtime.remains() == []
