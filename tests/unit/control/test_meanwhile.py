"""What callers are told of sandboxes that change at the very moment of the call: never that there is none."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fakes.sleepers import MEMORY, MINUTE, asleep, started, until
from fakes.world import ALICE, World

from atoll.server.control.service import Control
from atoll.server.domain.errors import NotFoundError, UnavailableError
from atoll.server.domain.sandbox import OnDeadline, Sandbox, Status

Happens = Callable[[], Awaitable[object]]


def after_one(call: Callable[..., Awaitable[Any]], happens: Happens) -> Any:
    """Have something happen right after the first call has its answer, before its caller has it."""
    first = True

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal first
        is_first, first = first, False
        answer = await call(*args, **kwargs)
        if is_first:
            await happens()
        return answer

    return wrapped


async def test_who_resumes_what_somebody_else_has_just_resumed_has_it(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await asleep(world, control)

    async def resumed() -> None:
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    # Between its look at the row and the write of it.
    monkeypatch.setattr(world.api_keys, "get_team", after_one(world.api_keys.get_team, resumed))
    back, _ = await control.pausing.connect(ALICE, sandbox.id, 3 * MINUTE, auto_pause=True)

    assert (back.status, back.generation, back.on_deadline) == (Status.RUNNING, 2, OnDeadline.PAUSE)
    assert back.deadline == world.clock.now() + 3 * MINUTE
    await control.settled()
    await world.assert_agreement()


async def test_who_resumes_what_is_being_paused_again_waits_for_that(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await asleep(world, control)
    pauses: list[asyncio.Task[Sandbox]] = []

    async def pausing_again() -> None:
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)
        world.faults.hang("checkpoint:1")
        pauses.append(asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY)))
        await until(world, sandbox.id, Status.PAUSING)

    monkeypatch.setattr(world.api_keys, "get_team", after_one(world.api_keys.get_team, pausing_again))
    resuming = asyncio.create_task(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await world.faults.reached("checkpoint:1", times=2)
    world.faults.let_go("checkpoint:1")
    back, resumed = await resuming

    assert (resumed, back.status, back.generation) == (True, Status.RUNNING, 3)
    await asyncio.gather(*pauses)
    await control.settled()
    await world.assert_agreement()


async def test_who_begins_a_resume_that_somebody_else_has_done_by_then_has_it(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await asleep(world, control)

    async def resumed() -> None:
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    # Between the write of the row and the begin of the work.
    monkeypatch.setattr(world.store, "replace_sandbox", after_one(world.store.replace_sandbox, resumed))
    back, _ = await control.pausing.connect(ALICE, sandbox.id, 3 * MINUTE)

    assert (back.status, back.deadline) == (Status.RUNNING, world.clock.now() + 3 * MINUTE)
    await control.settled()
    await world.assert_agreement()


async def test_who_connects_to_what_is_paused_at_that_moment_resumes_it(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await started(world, control)

    async def paused() -> None:
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    monkeypatch.setattr(world.store, "get_sandbox", after_one(world.store.get_sandbox, paused))
    back, resumed = await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert (resumed, back.status, back.generation) == (True, Status.RUNNING, 2)
    await control.settled()
    await world.assert_agreement()


async def test_a_snapshot_of_what_has_no_machine_any_more_does_not_say_that_there_is_no_sandbox(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    world.faults.fail("checkpoint:1", NotFoundError("No such machine"))

    with pytest.raises(UnavailableError, match="machine has just ended"):
        await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)

    assert await world.snapshots.all_snapshots() == []
    await world.assert_agreement()
