"""Rows of ended sandboxes go when their time has come: at the start, and while the server runs."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.world import ALICE, World, small, turns, wish

from atoll.server.control.service import Control
from atoll.server.domain.errors import ResourceExhaustedError
from atoll.server.domain.ids import SandboxId
from atoll.server.runtimes.fake.faults import Faults

OLD = timedelta(days=7, seconds=1)


async def ended(control: Control) -> SandboxId:
    sandbox = await control.create(ALICE, wish())
    await control.kill(ALICE, sandbox.id)
    return sandbox.id


async def until_rows_are(world: World, wanted: set[SandboxId]) -> None:
    async with asyncio.timeout(10):
        while set(await world.rows()) != wanted:
            await turns()


async def test_old_rows_are_forgotten_at_the_start(world: World) -> None:
    async with world.server() as control:
        await ended(control)
        world.clock.advance(OLD)
        young = await ended(control)

    world.renew(Faults())
    async with world.server():
        await until_rows_are(world, {young})


async def test_old_rows_are_forgotten_while_the_server_runs(world: World) -> None:
    async with world.server() as control:
        living = await control.create(ALICE, wish(timeout=timedelta(hours=24)))
        first = await ended(control)
        for day in range(7):
            assert first in await world.rows(), day
            world.clock.advance(timedelta(hours=23))
            await turns()
            await control.refresh(ALICE, living.id, timedelta(hours=24))
        second = await ended(control)
        world.clock.advance(timedelta(hours=8))

        await until_rows_are(world, {living.id, second})


@pytest.mark.parametrize(("at_once", "steps"), [(2, [2, 2, 1]), (0, [1, 1, 1, 1, 1, 0])])
async def test_rows_go_a_few_at_a_time_and_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, steps: list[int]
) -> None:
    world = World(tmp_path, small(forgotten_at_once=at_once, forget_every=timedelta()))
    async with world.server() as control:
        for _ in range(5):
            await ended(control)
    world.clock.advance(OLD)
    world.renew(Faults())
    numbers = []
    forget = world.store.forget_sandboxes

    async def counted(**arguments: Any) -> int:
        numbers.append(await forget(**arguments))
        return numbers[-1]

    monkeypatch.setattr(world.store, "forget_sandboxes", counted)
    async with world.server():
        await until_rows_are(world, set())
        await turns()

    assert numbers == steps


async def test_rows_that_cannot_be_deleted_now_are_deleted_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.server() as control:
        await ended(control)
    world.clock.advance(OLD)
    world.renew(Faults())
    tried = asyncio.Event()

    async def full(**_: Any) -> int:
        tried.set()
        raise ResourceExhaustedError("The server's disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(world.store, "forget_sandboxes", full)
        opened = world.server()
        await opened.__aenter__()
        await tried.wait()
    await turns()
    assert len(await world.rows()) == 1
    world.clock.advance(timedelta(hours=1))

    await until_rows_are(world, set())

    await opened.__aexit__(None, None, None)
