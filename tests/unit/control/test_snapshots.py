"""Snapshots and forks: what callers are promised, and that no death of the server leaves half of one."""

import asyncio

import pytest
from fakes.crashes import Points, life
from fakes.sleepers import BOB, FILES, MEMORY, MINUTE, started
from fakes.world import ALICE, World, outcome, small, turns, wish

from atoll.server.control.service import Control
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.events import EventType
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.domain.snapshot import Snapshot
from atoll.server.ports.events import EventQuery
from atoll.server.ports.snapshots import SnapshotQuery
from atoll.server.ports.store import SandboxFilter
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.stores.events import SqliteEvents

# More than the script here has; a test makes sure of it.
MOST_POINTS = 60


async def test_a_snapshot_is_taken_while_the_sandbox_runs_and_is_a_template(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control, env={"A": "1", "B": "1"})

    snapshot = await control.snapshots.take(ALICE, sandbox.id, "ready-to-go", MEMORY)

    assert (await control.get(ALICE, sandbox.id)) == sandbox
    world.runtime.remember(sandbox.id, "later")
    for reference in (snapshot.id, f"{snapshot.id}:default", "ready-to-go", "default/ready-to-go:default"):
        child = await control.create(ALICE, wish(template=reference, env={"B": "2"}))
        assert child.id != sandbox.id
        assert child.address != sandbox.address
        assert (child.template_id, child.template_alias) == (
            sandbox.template_id,
            reference.removesuffix(":default"),
        )
        assert child.env == {"A": "1", "B": "2"}
        assert child.limits == sandbox.limits
        told = world.guest.configurations[child.id]
        assert (told.generation, told.sandbox_id) == (sandbox.generation + 1, child.id)
        assert world.runtime.recall(child.id) == ("kept", "kept")
    assert world.runtime.recall(sandbox.id) == ("later", "later")
    await world.assert_agreement()


async def test_a_snapshot_has_no_tags_but_those_that_mean_itself(control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    await control.snapshots.take(ALICE, sandbox.id, "mine", MEMORY)

    for reference in ("mine:v2", "default/mine:v2"):
        with pytest.raises(NotFoundError, match=r"tag 'v2' does not exist for template '(default/)?mine'"):
            await control.create(ALICE, wish(template=reference))
        assert not await control.snapshots.delete(ALICE, reference)
    assert await control.snapshots.delete(ALICE, "mine:latest")


async def test_the_name_of_another_teams_snapshot_never_means_ones_own(control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    await control.snapshots.take(ALICE, sandbox.id, "mine", MEMORY)

    for reference in ("others/mine", "others/mine:default", "default/others/mine", "/mine", "a b/../mine"):
        with pytest.raises(NotFoundError, match="not found"):
            await control.create(ALICE, wish(template=reference))
        assert not await control.snapshots.delete(ALICE, reference)
        with pytest.raises(InvalidArgumentError, match="The name of a snapshot"):
            await control.snapshots.take(ALICE, sandbox.id, reference, MEMORY)
    assert await control.snapshots.delete(ALICE, "default/mine")


async def test_a_snapshot_outlives_its_sandbox_until_it_is_deleted(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    snapshot = await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
    await control.kill(ALICE, sandbox.id)
    await world.assert_agreement()

    child = await control.create(ALICE, wish(template=snapshot.id))
    assert world.runtime.recall(child.id) == ("kept", "kept")

    assert not await control.snapshots.delete(BOB, snapshot.id)
    assert await control.snapshots.delete(ALICE, snapshot.id)
    assert not await control.snapshots.delete(ALICE, snapshot.id)
    await control.settled()
    assert await world.checkpoints.names() == frozenset()
    with pytest.raises(NotFoundError):
        await control.create(ALICE, wish(template=snapshot.id))
    assert (await control.get(ALICE, child.id)).status is Status.RUNNING
    await world.assert_agreement()


async def test_a_snapshot_that_is_deleted_while_it_is_restored_is_not_found(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    snapshot = await control.snapshots.take(ALICE, sandbox.id, "mine", MEMORY)
    world.faults.hang("restore:1")
    creating = asyncio.ensure_future(outcome(control.create(ALICE, wish(template="mine"))))
    await world.faults.reached("restore:1")

    assert await control.snapshots.delete(ALICE, snapshot.id)
    world.faults.fail("restore:2", FailedPreconditionError("Checkpoint 'x' is damaged"))
    world.faults.let_go("restore:1")

    error = await creating
    assert isinstance(error, NotFoundError)
    assert str(error).startswith("template 'mine' not found")
    await control.settled()
    await world.assert_agreement()


async def test_a_snapshot_that_is_there_and_damaged_is_called_that(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    snapshot = await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
    world.faults.fail("restore:1", FailedPreconditionError("Checkpoint 'x' is damaged"))

    with pytest.raises(FailedPreconditionError, match="is damaged"):
        await control.create(ALICE, wish(template=snapshot.id))

    await control.settled()
    await world.assert_agreement()


async def test_without_its_memory_what_is_created_boots(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    snapshot = await control.snapshots.take(ALICE, sandbox.id, None, FILES)

    child = await control.create(ALICE, wish(template=snapshot.id))

    assert world.runtime.recall(child.id) == ("", "kept")


async def test_what_cannot_be_is_refused(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    take = control.snapshots.take
    with pytest.raises(NotFoundError):
        await take(BOB, sandbox.id, None, MEMORY)
    for name in ("", "A", "a b", "x" * 65, "-a", "ä"):
        with pytest.raises(InvalidArgumentError):
            await take(ALICE, sandbox.id, name, MEMORY)
    with pytest.raises(AlreadyExistsError):
        await take(ALICE, sandbox.id, "base", MEMORY)
    for count in (0, 21, -1):
        with pytest.raises(InvalidArgumentError):
            await control.snapshots.fork(ALICE, sandbox.id, count, MINUTE)
    snapshot = await take(ALICE, sandbox.id, "mine", MEMORY)
    for reference in (snapshot.id, "mine"):
        with pytest.raises(NotFoundError):
            await control.create(BOB, wish(template=reference))
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    with pytest.raises(FailedPreconditionError, match="paused, not running"):
        await take(ALICE, sandbox.id, None, MEMORY)
    assert await control.snapshots.list(SnapshotQuery(team_id=ALICE.team_id)) == [snapshot]
    await world.assert_agreement()


@pytest.mark.parametrize("error", [ResourceExhaustedError("The host's disk is full"), UnavailableError("no")])
async def test_what_cannot_be_written_leaves_nothing(
    world: World, control: Control, error: Exception
) -> None:
    sandbox = await started(world, control)
    world.faults.fail("checkpoint:1", error)

    with pytest.raises(type(error)):
        await control.snapshots.take(ALICE, sandbox.id, "name", MEMORY)

    assert await world.snapshots.all_snapshots() == []
    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING
    await world.assert_agreement()


async def test_a_create_from_a_snapshot_that_fails_is_undone(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    snapshot = await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
    for place in ("restore:1", "restore:2", "configure"):
        world.faults.fail(place, UnavailableError("not now"))
        with pytest.raises(UnavailableError, match="not now"):
            await control.create(ALICE, wish(template=snapshot.id))
        await control.settled()
        await world.assert_agreement()
    await control.create(ALICE, wish(template=snapshot.id))


async def test_forks_go_on_where_the_first_one_is(world: World, control: Control) -> None:
    sandbox = await started(world, control, metadata={"a": "b"}, env={"A": "1"})

    forks = await control.snapshots.fork(ALICE, sandbox.id, 3, 2 * MINUTE)

    assert len(forks) == 3
    ids, tokens = {sandbox.id}, set()
    for fork in forks:
        assert isinstance(fork, Sandbox)
        assert (fork.metadata, fork.env) == ({"a": "b"}, {"A": "1"})
        assert (fork.template_id, fork.template_alias) == (sandbox.template_id, sandbox.template_alias)
        assert fork.deadline == world.clock.now() + 2 * MINUTE
        assert world.runtime.recall(fork.id) == ("kept", "kept")
        ids.add(fork.id)
        tokens.add(world.guest.configurations[fork.id].access_token)
    assert (len(ids), len(tokens)) == (4, 3)
    await control.settled()
    assert await world.snapshots.all_snapshots() == []
    await world.assert_agreement()


async def test_each_snapshot_is_told_that_of_a_fork_too(world: World, control: Control) -> None:
    sandbox = await started(world, control, metadata={"a": "b"})

    snapshot = await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("The host's disk is full"))
    with pytest.raises(ResourceExhaustedError):
        await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
    await control.snapshots.fork(ALICE, sandbox.id, 2, MINUTE)

    query = EventQuery(team_id=ALICE.team_id, sandbox_id=sandbox.id, limit=10, oldest_first=True)
    created, taken, forked = await SqliteEvents(world.database).list_events(query)
    assert [event.type for event in (created, taken, forked)] == [
        EventType.CREATED,
        EventType.CHECKPOINTED,
        EventType.CHECKPOINTED,
    ]
    assert taken.data == {"sandbox_metadata": {"a": "b"}, "snapshot_id": snapshot.id}
    assert taken.generation == sandbox.generation


async def test_each_fork_fails_alone(world: World) -> None:
    world.limits = small(max_sandboxes=3)
    async with world.server() as control:
        sandbox = await started(world, control)

        forks = await control.snapshots.fork(ALICE, sandbox.id, 4, MINUTE)

        assert sorted(isinstance(fork, ResourceExhaustedError) for fork in forks) == [
            False,
            False,
            True,
            True,
        ]
        await control.settled()
        await world.assert_agreement()


async def test_a_kill_in_the_middle_wins(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:1")
    taking = asyncio.create_task(outcome(control.snapshots.take(ALICE, sandbox.id, None, MEMORY)))
    await world.faults.reached("checkpoint:1")

    await control.kill(ALICE, sandbox.id)

    assert isinstance(await taking, NotFoundError)
    await control.settled()
    assert await world.snapshots.all_snapshots() == []
    await world.assert_agreement()


async def test_who_goes_away_leaves_nothing(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:1")
    taking = asyncio.create_task(control.snapshots.take(ALICE, sandbox.id, None, MEMORY))
    await world.faults.reached("checkpoint:1")

    taking.cancel()
    await asyncio.wait([taking])

    await control.settled()
    assert await world.snapshots.all_snapshots() == []
    await world.assert_agreement()


async def test_who_leaves_a_fork_leaves_none_of_its_children(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("restore:1")
    forking = asyncio.create_task(control.snapshots.fork(ALICE, sandbox.id, 2, MINUTE))
    both = SandboxFilter(team_id=ALICE.team_id, statuses=frozenset({Status.RUNNING}))
    while await control.count(ALICE, both) < 2:
        await asyncio.sleep(0)
    await turns()

    forking.cancel()
    await asyncio.wait([forking])

    await control.settled()
    assert await control.count(ALICE, both) == 1
    await world.assert_agreement()


async def test_what_a_fork_writes_is_for_its_children_only_and_goes_with_the_server(
    world: World,
) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.hang("restore:1", times=2)
        forking = asyncio.create_task(outcome(control.snapshots.fork(ALICE, sandbox.id, 2, MINUTE)))
        await world.faults.reached("restore:1")

        (written,) = await world.snapshots.all_snapshots()

        assert await control.snapshots.list(SnapshotQuery(team_id=ALICE.team_id)) == []
        with pytest.raises(NotFoundError):
            await control.create(ALICE, wish(template=written.id))
        assert not await control.snapshots.delete(ALICE, written.id)
    await forking

    async with world.server() as control:
        await control.settled()
        assert await world.snapshots.all_snapshots() == []
        await world.assert_agreement()


async def test_a_fork_for_no_time_writes_nothing(world: World, control: Control) -> None:
    sandbox = await started(world, control)

    for lifetime in (0 * MINUTE, -MINUTE, 10_000 * MINUTE):
        with pytest.raises(InvalidArgumentError, match="Timeout"):
            await control.snapshots.fork(ALICE, sandbox.id, 2, lifetime)

    assert world.faults.passed["checkpoint:1"] == 0


async def test_a_snapshot_that_a_pause_overtakes_is_told_so(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:1")
    first = asyncio.create_task(control.snapshots.take(ALICE, sandbox.id, "first", MEMORY))
    await world.faults.reached("checkpoint:1")
    second = asyncio.create_task(outcome(control.snapshots.take(ALICE, sandbox.id, "second", MEMORY)))
    while len(await world.snapshots.all_snapshots()) < 2:
        await asyncio.sleep(0)
    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    while (await control.get(ALICE, sandbox.id)).status is Status.RUNNING:
        await asyncio.sleep(0)

    world.faults.let_go("checkpoint:1")

    assert isinstance(await second, FailedPreconditionError)
    assert (await first).name == "first"
    assert (await pausing).status is Status.PAUSED
    await world.assert_agreement()


async def test_a_pause_behind_more_snapshots_than_there_are_turns_gets_its_own(world: World) -> None:
    world.limits = small(concurrent_starts=1)
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.hang("checkpoint:1")
        calls = [control.snapshots.take(ALICE, sandbox.id, None, MEMORY) for _ in range(3)]
        snapshots = [asyncio.create_task(outcome(call)) for call in calls]
        await world.faults.reached("checkpoint:1")
        while len(await world.snapshots.all_snapshots()) < len(calls):
            await asyncio.sleep(0)
        pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
        while (await control.get(ALICE, sandbox.id)).status is Status.RUNNING:
            await asyncio.sleep(0)
        await turns()

        world.faults.let_go("checkpoint:1")

        async with asyncio.timeout(10):
            assert (await pausing).status is Status.PAUSED
        taken = await asyncio.gather(*snapshots)
        assert [type(one) for one in taken] == [Snapshot, FailedPreconditionError, FailedPreconditionError]
        await control.settled()
        await world.assert_agreement()


async def test_a_snapshot_that_waits_for_its_turn_keeps_nothing_else_from_its_sandbox(world: World) -> None:
    world.limits = small(concurrent_starts=1)
    async with world.server() as control:
        busy, sandbox = await started(world, control), await started(world, control)
        world.faults.hang("checkpoint:1")
        first = asyncio.create_task(control.snapshots.take(ALICE, busy.id, None, MEMORY))
        await world.faults.reached("checkpoint:1")
        waiting = asyncio.create_task(control.snapshots.take(ALICE, sandbox.id, None, MEMORY))
        while len(await world.snapshots.all_snapshots()) < 2:
            await asyncio.sleep(0)
        await turns()

        async with asyncio.timeout(10):
            await control.set_egress(ALICE, sandbox.id, EgressPolicy(internet=False))

        assert not waiting.done()
        world.faults.let_go("checkpoint:1")
        await asyncio.gather(first, waiting)
        await control.settled()
        await world.assert_agreement()


async def script(world: World, control: Control, told: dict[str, Snapshot]) -> None:
    """Create, take, take under the same name, create from it, fork, delete."""
    sandbox = await started(world, control)
    told["first"] = await control.snapshots.take(ALICE, sandbox.id, "name", MEMORY)
    told["second"] = await control.snapshots.take(ALICE, sandbox.id, "name", FILES)
    await control.create(ALICE, wish(template="name"))
    await control.snapshots.fork(ALICE, sandbox.id, 2, MINUTE)
    await control.snapshots.delete(ALICE, told["second"].id)
    del told["second"]


async def test_the_script_has_no_more_points_than_are_tried(world: World) -> None:
    points, told = Points(), dict[str, Snapshot]()

    await life(world, points, lambda control: script(world, control, told))

    assert set(told) == {"first"}
    assert 30 < points.count < MOST_POINTS, points.count


@pytest.mark.parametrize("point", range(1, MOST_POINTS))
async def test_a_server_that_dies_anywhere_loses_none_and_leaves_no_half(world: World, point: int) -> None:
    told = dict[str, Snapshot]()

    await life(world, Points(point, Points.die), lambda control: script(world, control, told))

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()
        await world.assert_agreement()
        for snapshot in told.values():
            if await control.snapshots.find(ALICE, snapshot.id) is None:
                # It was being deleted when the server died.
                assert snapshot.kind is FILES
                continue
            child = await control.create(ALICE, wish(template=snapshot.id))
            assert world.runtime.recall(child.id)[1] == "kept"
