"""Samples of sandboxes: taken in rounds, kept over the ends of server and sandbox, shown to owners only."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from fakes.world import ALICE, World, turns, wish
from structlog.testing import capture_logs

from atoll.server.control.requests import Actor
from atoll.server.control.watching.observing import Observing
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from atoll.server.domain.ids import TeamId, new_sandbox_id
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.stores.samples import FileSamples

BOB = Actor(team_id=TeamId("bobs"), key_id="bob", key_name="bob")
ROUND = timedelta(seconds=5)


@asynccontextmanager
async def sampling(world: World) -> AsyncIterator[Observing]:
    observing = world.observing()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(observing.run())
        yield observing
        task.cancel()


async def rounds(world: World, number: int) -> None:
    for _ in range(number):
        now = world.clock.now()
        ahead = ROUND - timedelta(seconds=now.timestamp() % 5)
        async with asyncio.timeout(10):
            await world.clock.slept_until(now + ahead)
        world.clock.advance(ahead)
        await turns()


async def test_each_round_adds_a_point_of_each_sandbox_also_after_its_end(world: World) -> None:
    async with world.server() as control, sampling(world) as observing:
        sandbox = await control.create(ALICE, wish())
        await rounds(world, 3)
        async with asyncio.timeout(10):
            await world.clock.slept_until(world.clock.now() + ROUND)
        await control.kill(ALICE, sandbox.id)

        row, points = await observing.metrics(ALICE, sandbox.id)

    assert row.id == sandbox.id
    assert [point.at for point in points] == [sandbox.created_at + ROUND * n for n in (1, 2, 3)]
    assert points[0].memory_bytes == 30_000_000
    assert [point.cores for point in points] == [pytest.approx(0.1), 0, 0]


async def test_the_next_server_goes_on_and_the_time_between_stays_a_gap(world: World) -> None:
    async with world.server() as control, sampling(world):
        sandbox = await control.create(ALICE, wish(timeout=timedelta(hours=1)))
        await rounds(world, 1)
        async with asyncio.timeout(10):
            await world.clock.slept_until(world.clock.now() + ROUND)
    world.clock.advance(timedelta(minutes=10))
    world.renew(Faults())
    async with world.server(), sampling(world) as observing:
        await rounds(world, 1)
        async with asyncio.timeout(10):
            await world.clock.slept_until(world.clock.now() + ROUND)

        _, points = await observing.metrics(ALICE, sandbox.id)

    assert [point.at - sandbox.created_at for point in points] == [ROUND, timedelta(minutes=10) + 2 * ROUND]


async def test_a_sandbox_younger_than_a_round_has_a_point_too(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.clock.advance(timedelta(seconds=1))
        observing = world.observing()

        _, [point] = await observing.metrics(ALICE, sandbox.id)
        many = await observing.last_metrics(ALICE, [sandbox.id, new_sandbox_id()])
        _, before = await observing.metrics(ALICE, sandbox.id, end=sandbox.created_at)

    assert point.cores == pytest.approx(0.5)
    assert {key: value[1] for key, value in many.items()} == {sandbox.id: point}
    assert before == []


async def test_a_round_that_fails_is_a_gap_and_the_next_one_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(samples: FileSamples, taken: object) -> None:
        raise ResourceExhaustedError("The server's disk is full")

    async with world.server() as control, sampling(world) as observing:
        sandbox = await control.create(ALICE, wish())
        with monkeypatch.context() as disk:
            disk.setattr(FileSamples, "add", full)
            await rounds(world, 1)
            async with asyncio.timeout(10):
                await world.clock.slept_until(world.clock.now() + ROUND)
        await rounds(world, 1)
        async with asyncio.timeout(10):
            await world.clock.slept_until(world.clock.now() + ROUND)

        _, points = await observing.metrics(ALICE, sandbox.id)

    assert [point.at - sandbox.created_at for point in points] == [2 * ROUND]


async def test_metrics_are_for_the_owner_and_for_times_that_make_sense(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        observing = world.observing()

        with pytest.raises(NotFoundError):
            await observing.metrics(BOB, sandbox.id)
        with pytest.raises(NotFoundError):
            await observing.metrics(ALICE, new_sandbox_id())
        with pytest.raises(InvalidArgumentError):
            await observing.metrics(ALICE, sandbox.id, start=world.clock.now(), end=world.clock.now() - ROUND)
        assert await observing.last_metrics(BOB, [sandbox.id]) == {}


async def test_samples_that_cannot_be_removed_keep_nobody_from_taking_others(world: World) -> None:
    stuck = world.directory / "metrics" / f"{new_sandbox_id()}.samples"
    stuck.mkdir(parents=True)
    os.utime(stuck, (1000, 1000))
    with capture_logs() as said:
        async with world.server() as control, sampling(world) as observing:
            sandbox = await control.create(ALICE, wish())
            await rounds(world, 2)
            async with asyncio.timeout(10):
                await world.clock.slept_until(world.clock.now() + ROUND)

            _, points = await observing.metrics(ALICE, sandbox.id)

    assert len(points) == 2
    assert "old samples not forgotten" in [one["event"] for one in said]
