"""Where all addresses are taken: the pool gives one up, then who has been paused for long, then nobody."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.world import ALICE, World, outcome, small, wish

from atoll.server.control.requests import LimitsOverride
from atoll.server.control.service import Control
from atoll.server.control.warm.pool import PoolLimits
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    FailedPreconditionError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.domain.upkeep import Restart, Upkeep
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.runtimes.fake.templates import BASE

POOL = PoolLimits(least=2, most=2, memory_bytes=10**9, least_free_bytes=10**9)
# Such a sandbox boots: none of the pool's machines is good for it.
OTHER_DISK = LimitsOverride(disk_bytes=BASE.limits.disk_bytes * 2)
MEMORY = CheckpointKind.MEMORY
LONG = timedelta(days=6)
HOUR = timedelta(hours=1)


def few(directory: Path, addresses: int, pool: PoolLimits | None = None, **changes: Any) -> World:
    world = World(directory, small(max_timeout=timedelta(days=30), **changes), pool)
    world.addresses = addresses
    world.renew(Faults())
    return world


async def created(control: Control, **changes: Any) -> Sandbox:
    return await control.create(ALICE, wish(limits=OTHER_DISK, timeout=timedelta(days=29), **changes))


async def finds_none(control: Control) -> None:
    with pytest.raises(ResourceExhaustedError) as caught:
        await created(control)
    assert caught.value.reason is Reason.ADDRESSES_USED_UP


async def filled(control: Control, number: int) -> None:
    async with asyncio.timeout(5):
        while len(control.pool.ids) != number:
            await asyncio.sleep(0)
    await control.settled()


async def test_machines_that_wait_give_their_addresses_up_before_a_create_fails(tmp_path: Path) -> None:
    world = few(tmp_path, 4, POOL)
    async with world.server() as control:
        await filled(control, 2)

        sandboxes = [await created(control) for _ in range(4)]

        assert len({one.address for one in sandboxes}) == 4
        assert control.pool.ids == frozenset()
        with pytest.raises(ResourceExhaustedError) as refused:
            await created(control)
        assert refused.value.reason is Reason.ADDRESSES_USED_UP
        await control.settled()
        assert world.runtime.running() == {one.id for one in sandboxes}


async def test_a_machine_that_will_not_go_is_the_only_one_of_the_pool_that_is_ended(tmp_path: Path) -> None:
    world = few(tmp_path, 2, POOL)
    async with world.server() as control:
        await filled(control, 2)
        world.faults.fail(
            "forget", UnavailableError("the edge does not answer"), times=world.limits.destroy_attempts
        )

        waiting = control.pool.ids
        creating = asyncio.create_task(outcome(created(control)))
        while not creating.done():
            world.clock.advance(timedelta(seconds=1))
            await asyncio.sleep(0)

        assert creating.result().reason is Reason.ADDRESSES_USED_UP
        assert len(waiting & control.pool.ids) == 1


async def test_the_pool_leaves_addresses_alone_for_a_while_and_then_is_filled(tmp_path: Path) -> None:
    world = few(tmp_path, 4, POOL)
    async with world.server() as control:
        await filled(control, 2)
        first, *_ = [await created(control) for _ in range(4)]
        await control.kill(ALICE, first.id)
        await control.settled()
        assert control.pool.ids == frozenset()

        now = world.clock.now()
        world.clock.advance(POOL.again)
        await world.clock.slept_until(now + POOL.again + POOL.look_every)

        await filled(control, 1)


async def test_a_resume_without_an_address_takes_one_of_the_pool(tmp_path: Path) -> None:
    world = few(tmp_path, 3, POOL)
    async with world.server() as control:
        await filled(control, 2)
        paused = await created(control)
        await control.pausing.pause(ALICE, paused.id, MEMORY)
        # As after `atoll down`.
        await world.runtime.destroy(paused.id)
        other = await created(control)

        back, _ = await control.pausing.connect(ALICE, paused.id, HOUR)

        assert back.status is Status.RUNNING
        assert world.runtime.running() == {paused.id, other.id} | control.pool.ids
        assert len(control.pool.ids) == 1


async def test_who_was_paused_for_longest_gives_its_address_up_and_gets_another(tmp_path: Path) -> None:
    world = few(tmp_path, 3)
    async with world.server() as control:
        first, second, third = [await created(control) for _ in range(3)]
        for one in (first, second, third):
            world.runtime.remember(one.id, one.id)
            await control.pausing.pause(ALICE, one.id, MEMORY)
            world.clock.advance(HOUR)
        world.clock.advance(LONG)
        world.edge.forgotten.clear()

        new = await created(control)

        assert new.address == first.address
        assert world.edge.forgotten == [first.id]
        await control.kill(ALICE, new.id)
        await control.kill(ALICE, second.id)
        # The free ones go to others first, so that this one cannot come back to what it had.
        other = await created(control)
        assert other.address == first.address
        back, _ = await control.pausing.connect(ALICE, first.id, HOUR)
        assert back.address == second.address
        assert world.runtime.recall(first.id) == (first.id, first.id)
        assert (await control.pausing.connect(ALICE, third.id, HOUR))[0].address == third.address
        await control.settled()
        await world.assert_agreement()


async def test_who_was_paused_lately_keeps_its_address_and_the_create_fails(tmp_path: Path) -> None:
    world = few(tmp_path, 1)
    async with world.server() as control:
        paused = await created(control)
        await control.pausing.pause(ALICE, paused.id, MEMORY)
        world.clock.advance(HOUR)

        with pytest.raises(ResourceExhaustedError) as refused:
            await created(control)

        assert refused.value.reason is Reason.ADDRESSES_USED_UP
        await control.settled()
        assert (await control.pausing.connect(ALICE, paused.id, HOUR))[0].address == paused.address
        await control.settled()
        await world.assert_agreement()


async def test_many_creates_at_once_each_find_an_address(tmp_path: Path) -> None:
    world = few(tmp_path, 5)
    async with world.server() as control:
        for one in [await created(control) for _ in range(5)]:
            await control.pausing.pause(ALICE, one.id, MEMORY)
        world.clock.advance(LONG)

        made = await asyncio.gather(*(created(control) for _ in range(5)))

        assert len({one.address for one in made}) == 5
        await control.settled()
        assert {one.id for one in made} == world.runtime.running()


async def test_who_gives_its_address_up_is_not_waited_for_with_a_turn(tmp_path: Path) -> None:
    world = few(tmp_path, 2)
    async with world.server() as control:
        for one in [await created(control) for _ in range(2)]:
            await control.pausing.pause(ALICE, one.id, MEMORY)
            world.clock.advance(HOUR)
        world.clock.advance(LONG)
        before = world.faults.passed["forget"]
        world.faults.hang("forget")
        first = asyncio.create_task(created(control))
        await world.faults.reached("forget", times=before + 1)

        # The next one's goes to the second.
        async with asyncio.timeout(10):
            await created(control)

        world.faults.let_go("forget")
        await first
        await control.settled()


async def test_who_is_resumed_while_it_is_asked_for_its_address_keeps_it(tmp_path: Path) -> None:
    world = few(tmp_path, 2)
    async with world.server() as control:
        first, second = [await created(control) for _ in range(2)]
        for one in (first, second):
            await control.pausing.pause(ALICE, one.id, MEMORY)
            world.clock.advance(HOUR)
        world.clock.advance(LONG)
        world.faults.hang("restore:2")
        resume = asyncio.ensure_future(control.pausing.connect(ALICE, first.id, HOUR))
        await world.faults.reached("restore:2")

        new = await created(control)

        assert new.address == second.address
        resume.cancel()
        control.pausing.stop(first.id)
        await control.settled()
        assert (await control.pausing.connect(ALICE, first.id, HOUR))[0].address == first.address


async def test_no_address_goes_to_another_before_the_edge_has_forgotten_the_route(tmp_path: Path) -> None:
    world = few(tmp_path, 1)
    async with world.server() as control:
        paused = await created(control)
        world.faults.fail("forget", UnavailableError("no answer"), times=2)
        # It is paused all the same: nobody else has its address.
        await control.pausing.pause(ALICE, paused.id, MEMORY)
        world.clock.advance(LONG)

        await finds_none(control)

        assert paused.id not in world.edge.forgotten
        assert (await created(control)).address == paused.address
        assert world.edge.forgotten[-1] == paused.id


async def test_where_the_edge_does_not_answer_one_is_asked_and_not_all(tmp_path: Path) -> None:
    world = few(tmp_path, 3)
    async with world.server() as control:
        for one in [await created(control) for _ in range(3)]:
            await control.pausing.pause(ALICE, one.id, MEMORY)
        world.clock.advance(LONG)
        world.faults.fail("forget", UnavailableError("no answer"))

        await finds_none(control)


async def test_where_the_edge_does_not_answer_the_pool_loses_one_machine_and_not_all(tmp_path: Path) -> None:
    world = few(tmp_path, 2, POOL, destroy_attempts=1)
    async with world.server() as control:
        await filled(control, 2)
        world.faults.fail("forget", UnavailableError("no answer"))

        await finds_none(control)

        assert len(control.pool.ids) == 1


async def test_one_that_will_not_go_is_passed_over_for_the_next(tmp_path: Path) -> None:
    world = few(tmp_path, 2)
    async with world.server() as control:
        first, second = [await created(control) for _ in range(2)]
        for one in (first, second):
            await control.pausing.pause(ALICE, one.id, MEMORY)
            world.clock.advance(HOUR)
        world.clock.advance(LONG)
        world.faults.fail("destroy:1", UnavailableError("busy"))

        assert (await created(control)).address == second.address


async def test_who_fell_and_is_to_come_back_keeps_its_address(tmp_path: Path) -> None:
    world = few(tmp_path, 1)
    async with world.server() as control:
        sandbox = await created(control, upkeep=Upkeep(restart=Restart.FROM_SNAPSHOT))
        await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
        world.clock.advance(LONG)
        world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
        await until(world, sandbox.id, Status.RUNNING, 2)
        world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
        # It fell again at once, so it waits; what it comes back from is older than it may be paused.
        await until(world, sandbox.id, Status.PAUSED, 2)

        await finds_none(control)

        world.clock.advance(HOUR)
        assert (await until(world, sandbox.id, Status.RUNNING, 3)).address == sandbox.address


async def test_who_fell_and_does_not_come_back_gives_its_address_to_others(tmp_path: Path) -> None:
    world = few(tmp_path, 1, restart_tries=1)
    async with world.server() as control:
        sandbox = await created(control, upkeep=Upkeep(persistent=True, restart=Restart.FROM_SNAPSHOT))
        await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
        # It comes up each time, with an address, and takes no configuration.
        world.faults.fail("configure", FailedPreconditionError("no"), times=2)
        world.edge.forgotten.clear()

        world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
        await until(world, sandbox.id, Status.PAUSED, 2)
        await control.settled()

        assert await world.runtime.remains() == []
        # So it is when somebody tries again, and nobody is led to who has the address then.
        world.edge.forgotten.clear()
        with pytest.raises(FailedPreconditionError):
            await control.pausing.connect(ALICE, sandbox.id, HOUR)
        assert await world.runtime.remains() == []
        assert world.edge.forgotten == [sandbox.id]
        other = await created(control)
        assert other.address == sandbox.address
        await control.kill(ALICE, other.id)
        assert (await control.pausing.connect(ALICE, sandbox.id, HOUR))[0].status is Status.RUNNING
        await control.settled()
        await world.assert_agreement()


async def until(world: World, sandbox_id: SandboxId, status: Status, generation: int) -> Sandbox:
    async with asyncio.timeout(10):
        while True:
            row = await world.store.get_sandbox(sandbox_id)
            if (row.status, row.generation) == (status, generation):
                return row
            await asyncio.sleep(0)
