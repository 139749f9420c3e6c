"""Logs of sandboxes: fetched when somebody reads them and before the end, and believed in nothing."""

import asyncio
from datetime import timedelta

import pytest
from fakes.world import ALICE, World, turns, wish

from atoll.server.control.requests import Actor
from atoll.server.control.watching.logbook import LogLimits
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError, UnavailableError
from atoll.server.domain.ids import TeamId, new_sandbox_id
from atoll.server.domain.logs import Level, Line, LogQuery
from atoll.server.runtimes.fake.faults import Faults

BOB = Actor(team_id=TeamId("bobs"), key_id="bob", key_name="bob")
ALL = LogQuery(most=1000)


def said(world: World, number: int, *, later: timedelta = timedelta()) -> Line:
    at = world.clock.now() + later
    return Line(number=number, at=at, level=Level.INFO, message=f"line {number}")


async def messages(world: World, sandbox_id: str, query: LogQuery = ALL) -> list[str]:
    return [line.message for line in await world.logbook().read(ALICE, sandbox_id, query)]


async def test_a_log_tells_of_life_and_of_what_the_guest_says_also_after_the_end(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.clock.advance(timedelta(seconds=1))
        world.guest.journals[sandbox.id] = [said(world, number) for number in (1, 2, 3)]
        living = await messages(world, sandbox.id)
        world.guest.journals[sandbox.id].append(said(world, 4))
        world.clock.advance(timedelta(seconds=1))
        await control.kill(ALICE, sandbox.id)
        world.renew(Faults())
    async with world.server():
        ended = await messages(world, sandbox.id)

    lines = ["line 1", "line 2", "line 3"]
    assert living == ["sandbox created", "sandbox started", *lines]
    assert ended == ["sandbox created", "sandbox started", *lines, "line 4", "sandbox ended"]


async def test_lines_are_kept_once_whoever_reads_and_whenever_the_server_restarts(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.guest.journals[sandbox.id] = [said(world, number) for number in range(1, 8)]
        logbook = world.logbook()
        await asyncio.gather(*(logbook.read(ALICE, sandbox.id, ALL) for _ in range(5)))
        first = await messages(world, sandbox.id)
        second = await messages(world, sandbox.id)

    assert first == second
    assert [one for one in first if one.startswith("line")] == [f"line {number}" for number in range(1, 8)]


async def test_times_that_cannot_be_are_put_right_and_missing_lines_are_said(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.guest.journals[sandbox.id] = [
            said(world, 1),
            said(world, 5, later=timedelta(days=400)),
            said(world, 6, later=timedelta(days=-400)),
        ]
        lines = await world.logbook().read(ALICE, sandbox.id, ALL)

    assert [line.message for line in lines if line.number] == [
        "line 1",
        "lines were lost",
        "line 5",
        "line 6",
    ]
    assert {line.at for line in lines if line.number} == {world.clock.now()}
    assert next(line for line in lines if line.message == "lines were lost").fields["lines"] == "3"


async def test_a_guest_that_does_not_answer_hides_nothing_that_is_kept_and_holds_no_kill_up(
    world: World,
) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.guest.journals[sandbox.id] = [said(world, 1)]
        await messages(world, sandbox.id)
        world.faults.fail("read_journal", UnavailableError("no answer"), times=2)
        world.clock.advance(timedelta(seconds=1))

        assert "line 1" in await messages(world, sandbox.id)
        await control.kill(ALICE, sandbox.id)
        assert (await messages(world, sandbox.id))[-1] == "sandbox ended"


async def test_busy_sandboxes_are_asked_now_and_then_and_idle_ones_left_asleep(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish(timeout=timedelta(hours=1)))
        world.guest.journals[sandbox.id] = [said(world, 1)]
        logbook = world.logbook()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(logbook.run())
            for _ in range(2):
                async with asyncio.timeout(10):
                    await world.clock.slept_until(world.clock.now() + timedelta(seconds=30))
                world.clock.advance(timedelta(seconds=30))
                await turns()
            async with asyncio.timeout(10):
                await world.clock.slept_until(world.clock.now() + timedelta(seconds=30))
            # In the second round it had used nothing since the first.
            world.guest.journals[sandbox.id].append(said(world, 2))
            kept = await world.lines.read(sandbox.id)
            task.cancel()

    assert [line.message for line in kept] == ["line 1"]


async def test_a_sandbox_that_was_only_started_is_left_asleep(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish(timeout=timedelta(hours=1)))
        world.guest.journals[sandbox.id] = [said(world, 1)]
        started = (await world.runtime.usage(sandbox.id)).cpu_seconds
        logbook = world.logbook(LogLimits(start_cpu_seconds=started))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(logbook.run())
            async with asyncio.timeout(10):
                await world.clock.slept_until(world.clock.now() + timedelta(seconds=30))
            world.clock.advance(timedelta(seconds=30))
            await turns()
            async with asyncio.timeout(10):
                await world.clock.slept_until(world.clock.now() + timedelta(seconds=30))
            task.cancel()

        assert await world.lines.read(sandbox.id) == []


@pytest.mark.parametrize(("cores", "said_in_time"), [(0.0002, []), (0.0004, ["line 1"])])
async def test_what_idling_costs_never_has_a_sandbox_asked_and_a_little_more_does(
    world: World, cores: float, said_in_time: list[str]
) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish(timeout=timedelta(hours=1)))
        world.guest.journals[sandbox.id] = [said(world, 1)]
        logbook = world.logbook(LogLimits(start_cpu_seconds=world.runtime.cpu_seconds))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(logbook.run())
            for _ in range(20):
                async with asyncio.timeout(10):
                    await world.clock.slept_until(world.clock.now() + timedelta(seconds=30))
                world.runtime.cpu_seconds += 30 * cores
                world.clock.advance(timedelta(seconds=30))
                await turns()
            async with asyncio.timeout(10):
                await world.clock.slept_until(world.clock.now() + timedelta(seconds=30))
            kept = await world.lines.read(sandbox.id)
            task.cancel()

    assert [line.message for line in kept] == said_in_time


async def test_a_log_is_for_the_owner_and_pages_are_bounded(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        logbook = world.logbook()

        for actor, name in ((BOB, sandbox.id), (ALICE, new_sandbox_id())):
            with pytest.raises(NotFoundError):
                await logbook.read(actor, name, ALL)
        for most in (0, 1001):
            with pytest.raises(InvalidArgumentError):
                await logbook.read(ALICE, sandbox.id, LogQuery(most=most))


async def test_a_guest_that_hangs_holds_neither_a_reader_nor_a_kill_up_for_long(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.guest.journals[sandbox.id] = [said(world, 1)]
        await messages(world, sandbox.id)
        world.faults.hang("read_journal", times=2)

        async with asyncio.timeout(8):
            assert "line 1" in await messages(world, sandbox.id)
            await control.kill(ALICE, sandbox.id)

        assert sandbox.id not in world.runtime.running()


async def test_lines_that_were_kept_twice_are_shown_once(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        for _ in range(2):
            await world.lines.add(sandbox.id, [said(world, 1), said(world, 2)])

        found = await messages(world, sandbox.id)

    assert [one for one in found if one.startswith("line")] == ["line 1", "line 2"]
