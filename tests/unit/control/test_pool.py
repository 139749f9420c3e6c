"""The pool: a create claims a machine that waits, no option loses that, and nothing of it is left behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fakes.crashes import Points, life
from fakes.teams import add_teams
from fakes.world import ALICE, World, outcome, small, turns, wish

from atoll.server.control.requests import Actor, LimitsOverride, MountWish
from atoll.server.control.service import Control
from atoll.server.control.warm.pool import PoolLimits
from atoll.server.domain.egress import EgressPolicy, to_plain
from atoll.server.domain.errors import (
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import KeyKind
from atoll.server.domain.machine import GuestConfiguration, Machine
from atoll.server.domain.pool import PoolStatus
from atoll.server.domain.sandbox import Status
from atoll.server.domain.template import StartCommand
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.runtimes.fake.templates import BASE, FakeTemplates

BOB = Actor(team_id=TeamId("bobs"), key_id="bob", key_name="bob")
OPERATOR = replace(ALICE, kind=KeyKind.HOME)
POOL = PoolLimits(
    least=2, most=6, memory_bytes=10**9, least_free_bytes=10**9, quiet=timedelta(milliseconds=40)
)
WARM = f"warm-{BASE.id}-{int(BASE.built_at.timestamp())}-r1"
# More than the script here has; a test makes sure of it.
MOST_POINTS = 80


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, pool=POOL)


@pytest.fixture
async def control(world: World) -> AsyncIterator[Control]:
    async with world.server() as opened:
        await filled(opened)
        yield opened


def status(control: Control) -> PoolStatus:
    (found,) = control.pool.statuses(OPERATOR)
    return found


async def filled(control: Control) -> None:
    """Return when as many wait as should."""
    async with asyncio.timeout(5):
        while not (found := control.pool.statuses(OPERATOR)) or any(one.ready != one.wanted for one in found):
            await asyncio.sleep(0)
    await control.settled()


async def test_no_machine_is_made_beside_the_create_that_took_one(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored = world.faults.passed["restore:1"]
    meanwhile: list[int] = []
    told = world.guest.configure

    async def configure(machine: Machine, configuration: GuestConfiguration, *, waits: bool = False) -> None:
        if configuration.claimed:
            await turns(20)
            meanwhile.append(world.faults.passed["restore:1"])
        await told(machine, configuration, waits=waits)

    monkeypatch.setattr(world.guest, "configure", configure)

    await control.create(ALICE, wish())

    assert meanwhile == [restored]
    await filled(control)


@pytest.mark.parametrize(
    ("least", "rests"),
    [
        (1, [POOL.calm]),
        # The last one is not left alone, or every third of a few creates in a row would find none.
        (2, [POOL.calm, POOL.calm]),
        (3, [POOL.quiet, POOL.calm, POOL.calm]),
        (5, [POOL.quiet, POOL.quiet, POOL.calm, POOL.calm, POOL.calm]),
    ],
)
async def test_the_next_machine_is_made_the_sooner_the_fewer_wait(
    tmp_path: Path, least: int, rests: list[timedelta]
) -> None:
    world = World(tmp_path, pool=replace(POOL, least=least))
    async with world.server() as control:
        await filled(control)
        world.free_memory = 0  # so that none is made meanwhile
        found = []
        for _ in range(least):
            await control.create(ALICE, wish())
            found.append(control.pool.rest())

    assert found == rests


async def test_a_create_claims_a_machine_that_waits(world: World, control: Control) -> None:
    waiting = control.pool.ids
    booted = world.faults.passed["start:1"]
    policy = EgressPolicy(internet=False)

    sandbox = await control.create(
        ALICE, wish(env={"A": "b"}, metadata={"c": "d"}, egress=policy, timeout=timedelta(minutes=7))
    )

    assert sandbox.id in waiting
    assert world.faults.passed["start:1"] == booted
    told = world.guest.configurations[sandbox.id]
    assert (told.sandbox_id, told.hostname, told.team_id) == (sandbox.id, sandbox.id, ALICE.team_id)
    assert dict(told.env)["A"] == "b"
    assert told.access_token == control.access_token(sandbox.id)
    assert (told.claimed, told.generation) == (True, sandbox.generation)
    assert sandbox.metadata == {"c": "d"}
    written = json.loads((world.directory / "machines" / sandbox.id / "egress").read_text())
    assert written == to_plain(policy)
    assert sandbox.deadline - world.clock.now() == timedelta(minutes=7)
    assert (status(control).hits, status(control).misses) == (1, 0)
    await filled(control)
    assert status(control).ready == 2
    await control.kill(ALICE, sandbox.id)
    assert sandbox.id not in world.runtime.running()


async def test_each_sandbox_gets_a_machine_of_its_own(world: World, control: Control) -> None:
    made = await asyncio.gather(*(control.create(ALICE, wish()) for _ in range(5)))

    assert len({sandbox.id for sandbox in made}) == 5
    assert len({sandbox.address for sandbox in made}) == 5
    assert (status(control).hits, status(control).misses) == (2, 3)


async def test_who_finds_none_restores_the_warm_template_and_boots_nothing(
    world: World, control: Control
) -> None:
    booted = world.faults.passed["start:1"]

    for _ in range(8):
        sandbox = await control.create(ALICE, wish(env={"A": "1"}))
        assert dict(world.guest.configurations[sandbox.id].env)["A"] == "1"

    assert world.faults.passed["start:1"] == booted == 1


async def test_the_pool_follows_the_largest_burst_and_forgets_it(world: World, control: Control) -> None:
    await asyncio.gather(*(control.create(ALICE, wish()) for _ in range(4)))
    await filled(control)
    assert (status(control).wanted, status(control).ready) == (4, 4)

    for _ in range(10):
        await outcome(control.create(ALICE, wish()))
    await filled(control)
    assert status(control).ready == POOL.most

    now = world.clock.now()
    world.clock.advance(POOL.remember + timedelta(seconds=1))
    await world.clock.slept_until(now + POOL.remember + timedelta(seconds=1) + POOL.look_every)
    await filled(control)
    assert (status(control).wanted, status(control).ready) == (2, 2)


async def test_other_sizes_have_pools_of_their_own(world: World, control: Control) -> None:
    larger = replace(BASE.limits, memory_bytes=BASE.limits.memory_bytes * 2)

    override = LimitsOverride(memory_bytes=larger.memory_bytes)
    first = await control.create(ALICE, wish(limits=override))
    await filled(control)
    second = await control.create(ALICE, wish(limits=override))

    assert (first.limits, second.limits) == (larger, larger)
    by_size = {one.key.limits: one for one in control.pool.statuses(OPERATOR)}
    assert (by_size[larger].hits, by_size[larger].misses) == (1, 1)
    assert by_size[BASE.limits].hits == 0


async def test_many_sizes_of_one_team_leave_the_pools_of_others_alone(tmp_path: Path) -> None:
    world = World(tmp_path, pool=replace(POOL, kinds=4))
    async with world.server() as control:
        await add_teams(world.database, BOB.team_id)
        await filled(control)
        await control.create(BOB, wish(limits=LimitsOverride(memory_bytes=BASE.limits.memory_bytes * 2)))
        for number in range(1, 9):
            world.clock.advance(timedelta(seconds=1))
            memory = BASE.limits.memory_bytes + number * 2**20
            await control.create(ALICE, wish(limits=LimitsOverride(memory_bytes=memory)))

        found = {one.key.limits.memory_bytes for one in control.pool.statuses(OPERATOR)}
        added = sorted(memory - BASE.limits.memory_bytes for memory in found)
        assert added == [0, 7 * 2**20, 8 * 2**20, BASE.limits.memory_bytes]
        await filled(control)
        before = control.pool.ids
        back = await control.create(
            BOB, wish(limits=LimitsOverride(memory_bytes=BASE.limits.memory_bytes * 2))
        )
        assert back.id in before


async def test_another_disk_is_booted_since_it_belongs_to_the_checkpoint(
    world: World, control: Control
) -> None:
    booted = world.faults.passed["start:1"]

    await control.create(ALICE, wish(limits=LimitsOverride(disk_bytes=BASE.limits.disk_bytes * 2)))

    assert world.faults.passed["start:1"] == booted + 1
    assert len(control.pool.statuses(OPERATOR)) == 1


async def test_volumes_are_attached_to_the_machine_that_waited(world: World, control: Control) -> None:
    volume = await control.volumes.create(ALICE, "data")
    waiting, booted = control.pool.ids, world.faults.passed["start:1"]

    sandbox = await control.create(ALICE, wish(volumes=(MountWish(name="data", path="/data"),)))

    assert sandbox.id in waiting
    assert world.faults.passed["start:1"] == booted
    assert world.faults.passed["attach"] == 1
    told = world.guest.configurations[sandbox.id]
    assert [(mount.volume_id, mount.path) for mount in told.volumes] == [(volume.id, "/data")]


async def test_a_machine_that_ended_while_it_waited_is_not_handed_out(world: World, control: Control) -> None:
    (dead, *_) = control.pool.ids
    world.runtime.end(dead)
    await turns(50)
    await filled(control)

    made = await asyncio.gather(*(control.create(ALICE, wish()) for _ in range(2)))

    assert dead not in {sandbox.id for sandbox in made}
    await control.settled()
    assert dead not in await world.runtime.remains()


@pytest.mark.parametrize("place", ["configure", "egress"])
async def test_a_machine_that_cannot_be_claimed_is_replaced_under_the_same_id(
    world: World, control: Control, place: str
) -> None:
    waiting = control.pool.ids
    world.faults.fail(place, UnavailableError("broken"))

    sandbox = await control.create(ALICE, wish(egress=EgressPolicy(internet=False)))

    assert sandbox.status is Status.RUNNING
    assert sandbox.id in waiting
    assert world.guest.configurations[sandbox.id].generation == sandbox.generation


async def test_a_machine_that_hangs_in_its_claim_is_replaced(tmp_path: Path) -> None:
    world = World(tmp_path, pool=replace(POOL, claim_timeout=timedelta(seconds=0.05)))
    async with world.server() as control:
        await filled(control)
        world.faults.hang("configure")

        sandbox = await control.create(ALICE, wish())

        assert sandbox.status is Status.RUNNING


async def test_a_machine_that_ends_in_its_claim_is_replaced(world: World, control: Control) -> None:
    world.faults.hang("configure")
    before = world.faults.passed["configure"]
    creating = asyncio.create_task(control.create(ALICE, wish()))
    await world.faults.reached("configure", times=before + 1)
    claimed = next(row.id for row in (await world.rows()).values() if row.status is Status.CREATING)
    world.runtime.end(claimed)
    await turns(50)
    assert not creating.done()

    await control.kill(ALICE, claimed)

    with pytest.raises(Exception, match="killed while"):
        await creating
    assert claimed not in await world.runtime.remains()


@pytest.mark.parametrize("moment", range(1, 40))
async def test_whenever_a_claimed_machine_ends_no_row_says_that_it_runs(
    world: World, control: Control, moment: int
) -> None:
    creating = asyncio.create_task(control.create(ALICE, wish()))
    await turns(moment)
    for row in (await world.rows()).values():
        if row.id in world.runtime.running():
            world.runtime.end(row.id)
    await asyncio.wait([creating])
    await control.settled()
    await turns(50)

    running = {row.id for row in (await world.rows()).values() if row.status is Status.RUNNING}
    assert running <= world.runtime.running()


async def test_the_same_create_sent_again_takes_no_machine(world: World, control: Control) -> None:
    first = await control.create(ALICE, wish(request_key="once"))
    await filled(control)
    ready = control.pool.ids

    again = await control.create(ALICE, wish(request_key="once"))

    assert again.id == first.id
    assert ready <= control.pool.ids
    assert status(control).hits == 1


async def test_a_refused_create_takes_no_machine(tmp_path: Path) -> None:
    world = World(tmp_path, limits=small(max_sandboxes=1), pool=POOL)
    async with world.server() as control:
        await filled(control)
        await control.create(ALICE, wish())
        await filled(control)
        ready = control.pool.ids

        with pytest.raises(ResourceExhaustedError):
            await control.create(ALICE, wish())

        assert ready <= control.pool.ids


@pytest.mark.parametrize("moment", range(1, 14))
async def test_a_claim_whose_caller_goes_away_leaves_nothing(
    world: World, control: Control, moment: int
) -> None:
    creating = asyncio.create_task(control.create(ALICE, wish()))
    await turns(moment)
    creating.cancel()
    await asyncio.wait([creating])
    await control.settled()
    await filled(control)

    running = {row.id for row in (await world.rows()).values() if row.status is Status.RUNNING}
    answered = set() if creating.cancelled() else {creating.result().id}
    assert running == answered
    assert world.runtime.running() == running | control.pool.ids


async def test_memory_that_runs_short_is_given_back_and_nothing_is_made(
    world: World, control: Control
) -> None:
    world.free_memory = POOL.least_free_bytes - 1
    for _ in range(3):
        now = world.clock.now()
        world.clock.advance(POOL.look_every)
        await world.clock.slept_until(now + 2 * POOL.look_every)
    await control.settled()
    assert (status(control).ready, world.runtime.running()) == (0, set())

    sandbox = await control.create(ALICE, wish())

    assert sandbox.status is Status.RUNNING
    assert status(control).ready == 0


async def test_a_template_that_cannot_be_warmed_is_booted_and_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path, pool=POOL)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("The host's disk is full"))
    async with world.server() as control:
        await world.faults.reached("checkpoint:1")
        await turns(50)
        # One try, however many refills there are.
        assert world.faults.passed["checkpoint:1"] == 1
        assert status(control).problem == "The host's disk is full"
        sandbox = await control.create(ALICE, wish())
        assert sandbox.status is Status.RUNNING
        now = world.clock.now()

        world.clock.advance(POOL.again)
        await world.clock.slept_until(now + POOL.again + POOL.look_every)
        await filled(control)

        assert status(control).problem is None
        assert await world.checkpoints.names() == {WARM}


async def test_a_template_that_does_not_get_ready_keeps_no_other_from_its_machines(tmp_path: Path) -> None:
    start = StartCommand(command="serve", ready="false", timeout_s=50)
    web = replace(BASE, name="web", id=type(BASE.id)("web-000000000000"), start=start)
    world = World(tmp_path, pool=replace(POOL, templates="base,web"))
    world.templates = FakeTemplates(BASE, web)
    world.faults.hang("launch")
    async with world.server() as control:
        await world.faults.reached("launch")

        async with asyncio.timeout(5):
            while [one.ready for one in control.pool.statuses(OPERATOR) if one.template == "base"] != [2]:
                await asyncio.sleep(0)
        assert [one.ready for one in control.pool.statuses(OPERATOR) if one.template == "web"] == [0]

        world.faults.let_go("launch")
        await filled(control)
        assert world.faults.passed["launch"] == 1


async def test_what_cannot_be_made_does_not_have_the_others_made_sooner(tmp_path: Path) -> None:
    world = World(tmp_path, pool=POOL)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("The host's disk is full"))
    async with world.server() as control:
        await world.faults.reached("checkpoint:1")
        await turns(50)
        # One try, however many refills there are.
        assert world.faults.passed["checkpoint:1"] == 1
        assert status(control).problem is not None

        assert control.pool.rest() == POOL.quiet


async def filled_in_time(world: World, control: Control) -> None:
    """Let time go by until as many wait as are wanted, and nothing is wrong."""
    async with asyncio.timeout(5):
        while status(control).ready < status(control).wanted:
            world.clock.advance(POOL.look_every)
            await asyncio.sleep(0.001)
    assert status(control).problem is None


async def test_a_warm_checkpoint_that_is_damaged_is_made_anew(world: World, control: Control) -> None:
    (world.checkpoints.path(WARM) / "memory").write_text("rubbish")

    # More than wait: those that find none are not failed by it, either.
    for made in await asyncio.gather(*(control.create(ALICE, wish()) for _ in range(4))):
        assert made.status is Status.RUNNING

    # Whoever met it first, a create or the pool, had it removed; the pool may let it alone for a while.
    await filled_in_time(world, control)
    assert (world.checkpoints.path(WARM) / "memory").read_text() == ""


async def test_a_warm_checkpoint_that_crashes_whoever_restores_it_is_made_anew(
    world: World, control: Control
) -> None:
    restored = world.faults.passed["restore:3"]
    # Two that wait are claimed; the next two find none, and boot.
    world.faults.fail("restore:3", UnavailableError("the sentry crashed"), times=2)

    for made in await asyncio.gather(*(control.create(ALICE, wish()) for _ in range(4))):
        assert made.status is Status.RUNNING

    await filled_in_time(world, control)
    assert world.faults.passed["restore:3"] > restored + 2
    assert world.faults.passed["checkpoint:1"] > 1


async def test_the_start_command_runs_once_and_again_only_where_it_wants_the_environment(
    tmp_path: Path,
) -> None:
    start = StartCommand(command="serve", ready="true", timeout_s=5)
    web = replace(BASE, name="web", id=type(BASE.id)("web-000000000000"), start=start)
    env = replace(web, name="env", id=type(BASE.id)("env-000000000000"), start=replace(start, needs_env=True))
    world = World(tmp_path, pool=replace(POOL, templates="web,env"))
    world.templates = FakeTemplates(web, env)
    async with world.server() as control:
        await filled(control)
        launched = world.faults.passed["launch"]
        assert launched == 2

        await control.create(ALICE, wish(template="web", env={"A": "1"}))
        await control.create(ALICE, wish(template="env"))
        assert world.faults.passed["launch"] == launched
        await control.create(ALICE, wish(template="env", env={"A": "1"}))

        assert world.faults.passed["launch"] == launched + 1


async def test_the_next_server_keeps_the_warm_checkpoint_and_removes_what_waited(world: World) -> None:
    async with world.server() as control:
        await filled(control)
        waited = control.pool.ids
    world.renew(Faults())

    async with world.server() as control:
        await filled(control)
        await control.settled()

        assert world.faults.passed["start:1"] == 0
        assert world.faults.passed["checkpoint:1"] == 0
        assert not waited & set(await world.runtime.remains())


async def test_a_warm_checkpoint_of_a_template_that_is_gone_is_removed(world: World) -> None:
    async with world.server() as control:
        await filled(control)
    world.renew(Faults())
    world.templates = FakeTemplates(replace(BASE, built_at=BASE.built_at + timedelta(days=1)))

    async with world.server() as control:
        await filled(control)
        assert WARM not in await world.checkpoints.names()


async def test_after_an_update_templates_are_warmed_anew(world: World) -> None:
    async with world.server() as control:
        await filled(control)
    world.renew(Faults())
    world.runtime.programs = "r2"

    async with world.server() as control:
        await filled(control)
        assert await world.checkpoints.names() == {WARM.removesuffix("r1") + "r2"}


async def test_only_the_home_key_sees_the_pool(control: Control) -> None:
    with pytest.raises(PermissionDeniedError):
        control.pool.statuses(ALICE)


async def script(world: World, control: Control, created: set[str]) -> None:
    """Fill the pool, claim, kill, and let the pool fill again."""
    await filled(control)
    for _ in range(2):
        sandbox = await control.create(ALICE, wish())
        created.add(sandbox.id)
    created.discard(sandbox.id)
    await control.kill(ALICE, sandbox.id)
    await filled(control)


async def test_the_script_has_as_many_points_as_are_tried(world: World) -> None:
    points = Points()

    await life(world, points, lambda control: script(world, control, set()))

    assert MOST_POINTS - 25 < points.count < MOST_POINTS, points.count


@pytest.mark.parametrize("point", range(1, MOST_POINTS))
async def test_a_server_that_dies_anywhere_leaves_no_machine_without_an_owner(
    world: World, point: int
) -> None:
    created: set[str] = set()

    await life(world, Points(point, Points.die), lambda control: script(world, control, created))

    world.renew(Faults())
    async with world.server() as control:
        await filled(control)
        await control.settled()
        running = {row.id for row in (await world.rows()).values() if row.status is Status.RUNNING}
        # One that was being killed may be there or not; one that was answered is.
        assert created <= running
        assert world.runtime.running() == running | control.pool.ids
        assert set(await world.runtime.remains()) == running | control.pool.ids
        assert await world.checkpoints.names() == {WARM}


async def test_a_warm_checkpoint_stays_raw_and_is_not_collected_though_no_row_names_it(world: World) -> None:
    for _ in range(2):
        async with world.server() as control:
            await filled(control)
            assert world.checkpoints.pinned == {WARM}

            assert (await world.storing().collect(OPERATOR, dry=False)).leftovers == ()

            assert WARM in await world.checkpoints.names()
        world.renew(Faults())
