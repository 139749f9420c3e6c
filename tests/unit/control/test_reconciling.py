"""What a new server finds, and what machines do by themselves."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fakes.world import ALICE, World, outcome, turns, wish

from atoll.server.control.service import Control
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from atoll.server.domain.ids import new_sandbox_id
from atoll.server.domain.machine import MachineSpec
from atoll.server.domain.sandbox import EndReason, Sandbox, Status, Target
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.runtimes.fake.runtime import START_PLACES, FakeRuntime
from atoll.server.runtimes.fake.templates import BASE


async def test_live_sandboxes_are_adopted(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish(timeout=timedelta(hours=1)))

    world.renew(Faults())
    async with world.server() as control:
        assert await control.get(ALICE, sandbox.id) == sandbox
        assert (await control.routing.route(sandbox.id)).address == sandbox.address
        await world.clock.slept_until(sandbox.deadline)
        await world.assert_agreement()
        assert (await control.kill(ALICE, sandbox.id)).status is Status.KILLED


async def test_a_deadline_that_passed_meanwhile_is_kept_at_once(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish(timeout=timedelta(minutes=1)))
    world.clock.advance(timedelta(minutes=2))

    world.renew(Faults())
    async with world.server() as control:
        await world.faults.reached("destroy:1")
        await control.settled()

        assert (await world.rows())[sandbox.id].end_reason is EndReason.DEADLINE
        await world.assert_agreement()


async def test_a_sandbox_without_its_machine_is_lost(world: World) -> None:
    async with world.server() as control:
        gone = await control.create(ALICE, wish())
        kept = await control.create(ALICE, wish())
    world.runtime.end_unseen(gone.id)

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()

        rows = await world.rows()
        assert (rows[gone.id].status, rows[gone.id].end_reason) == (Status.FAILED, EndReason.LOST)
        assert rows[gone.id].target is Target.RUNNING
        assert rows[kept.id].status is Status.RUNNING
        assert world.edge.forgotten == [gone.id]
        await world.assert_agreement()


@pytest.mark.parametrize("made", range(len(START_PLACES) + 1))
async def test_a_machine_without_a_row_is_removed_however_far_it_came(world: World, made: int) -> None:
    orphan = new_sandbox_id()
    spec = MachineSpec(
        sandbox_id=orphan, template_id=BASE.id, hostname="h", limits=BASE.limits, egress=EgressPolicy()
    )
    if made < len(START_PLACES):
        world.faults.fail(START_PLACES[made], UnavailableError("cut off"))
    await world.runtime.open()
    await outcome(world.runtime.start(spec))

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()

        assert list(await world.runtime.remains()) == []
        await world.assert_agreement()


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"status": Status.CREATING}, Status.FAILED, EndReason.START_INTERRUPTED),
        (
            {"status": Status.KILLING, "target": Target.KILLED, "end_reason": EndReason.KILLED},
            Status.KILLED,
            EndReason.KILLED,
        ),
        (
            {"status": Status.KILLING, "end_reason": EndReason.OOM, "end_detail": "wall"},
            Status.FAILED,
            EndReason.OOM,
        ),
    ],
)
@pytest.mark.parametrize("machine", [True, False])
async def test_half_made_and_half_killed_ones_are_ended(
    world: World, changes: dict[str, Any], status: Status, reason: EndReason, machine: bool
) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        await world.store.replace_sandbox(sandbox, replace(sandbox, **changes))
    if not machine:
        await world.runtime.destroy(sandbox.id)

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()

        row = (await world.rows())[sandbox.id]
        assert (row.status, row.end_reason) == (status, reason)
        await world.assert_agreement()


async def test_remains_of_an_ended_row_are_removed(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        ended = {"status": Status.KILLED, "ended_at": world.clock.now(), "end_reason": EndReason.KILLED}
        await world.store.replace_sandbox(sandbox, replace(sandbox, address=None, **ended))

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()
        await world.assert_agreement()


async def test_more_rows_than_a_page_are_all_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.server.control.rows.unfinished.ROWS_AT_ONCE", 2)
    async with world.server() as control:
        for _ in range(7):
            await control.create(ALICE, wish())
    for sandbox_id in world.runtime.running():
        world.runtime.end_unseen(sandbox_id)

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()

        assert {row.end_reason for row in (await world.rows()).values()} == {EndReason.LOST}
        await world.assert_agreement()


async def test_what_cannot_be_removed_at_the_start_does_not_stop_it(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
    world.runtime.end_unseen(sandbox.id)

    world.renew(Faults())
    world.faults.fail("destroy:2", UnavailableError("stuck"), times=2)
    async with world.server() as control:
        assert (await control.create(ALICE, wish())).status is Status.RUNNING
        while world.faults.passed["destroy:2"] < 3:
            await turns(2)
            world.clock.advance(timedelta(seconds=1))
        await control.settled()

        await world.assert_agreement()


async def test_another_address_of_an_adopted_machine_is_written_down(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        await world.store.replace_sandbox(sandbox, replace(sandbox, address="10.9.9.9"))

    world.renew(Faults())
    async with world.server() as control:
        assert (await control.routing.route(sandbox.id)).address == sandbox.address


@pytest.mark.parametrize(
    "reason",
    [EndReason.OOM, EndReason.PROCESS_LIMIT, EndReason.GUEST_ENDED, EndReason.RUNTIME_HUNG],
)
async def test_a_machine_that_ends_by_itself_is_removed_with_its_reason(
    world: World, control: Control, reason: EndReason
) -> None:
    sandbox = await control.create(ALICE, wish())
    other = await control.create(ALICE, wish())

    world.runtime.end(sandbox.id, reason, "the facts")
    await world.faults.reached("destroy:1")
    await control.settled()

    row = (await world.rows())[sandbox.id]
    assert (row.status, row.target) == (Status.FAILED, Target.RUNNING)
    assert (row.end_reason, row.end_detail) == (reason, "the facts")
    assert world.edge.forgotten == [sandbox.id]
    assert (await control.get(ALICE, other.id)).status is Status.RUNNING
    await world.assert_agreement()


async def test_who_is_suspected_is_looked_at_once_and_ends_only_if_it_hangs(
    world: World, control: Control
) -> None:
    well, hung = await control.create(ALICE, wish()), await control.create(ALICE, wish())
    world.runtime.hung.add(hung.id)

    for _ in range(3):
        await control.routing.suspect(well.id)
        await control.routing.suspect(hung.id)
    await world.faults.reached("destroy:1")
    await control.settled()

    assert world.faults.passed["probe"] == 2
    rows = await world.rows()
    assert (rows[hung.id].status, rows[hung.id].end_reason) == (Status.FAILED, EndReason.RUNTIME_HUNG)
    assert rows[well.id].status is Status.RUNNING
    await world.assert_agreement()
    with pytest.raises(NotFoundError):
        await control.routing.suspect(new_sandbox_id())


async def test_the_first_reason_of_an_end_stays(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    world.faults.hang("destroy:1")
    world.runtime.end(sandbox.id, EndReason.OOM)
    async with asyncio.TaskGroup() as group:
        await world.faults.reached("destroy:1")
        caller = group.create_task(control.kill(ALICE, sandbox.id))
        await turns()
        row: Sandbox = (await world.rows())[sandbox.id]
        caller.cancel()

    assert (row.end_reason, row.target, row.status) == (EndReason.OOM, Target.KILLED, Status.KILLING)


async def test_the_end_of_an_unknown_machine_removes_it(world: World, control: Control) -> None:
    orphan = new_sandbox_id()
    await world.runtime.start(
        MachineSpec(
            sandbox_id=orphan, template_id=BASE.id, hostname="h", limits=BASE.limits, egress=EgressPolicy()
        )
    )

    world.runtime.end(orphan)
    await world.faults.reached("destroy:3")
    await control.settled()

    assert list(await world.runtime.remains()) == []


async def test_kills_for_memory_are_told_and_the_sandbox_lives(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    for pid in range(20):
        world.runtime.kill_for_memory(sandbox.id, pid=pid, command="python3")
    await turns(40)

    kills = await control.memory_kills(ALICE, sandbox.id)
    assert [kill.pid for kill in kills] == list(range(4, 20))
    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING
    await control.kill(ALICE, sandbox.id)
    # They may be why it was ended.
    assert await control.memory_kills(ALICE, sandbox.id) == kills


async def test_kills_for_memory_are_known_to_the_next_server(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.runtime.kill_for_memory(sandbox.id, pid=7, command="python3")
        while not await control.memory_kills(ALICE, sandbox.id):
            await turns()

    world.renew(Faults())
    async with world.server() as control:
        assert [kill.pid for kill in await control.memory_kills(ALICE, sandbox.id)] == [7]


async def test_a_kill_that_cannot_be_written_stops_nothing(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await control.create(ALICE, wish())

    tried = asyncio.Event()

    async def full(*_: Any, **__: Any) -> None:
        tried.set()
        raise ResourceExhaustedError("The server's disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(world.store, "add_memory_kill", full)
        world.runtime.kill_for_memory(sandbox.id, pid=1, command="python3")
        await tried.wait()
    world.runtime.kill_for_memory(new_sandbox_id(), pid=2, command="of no row")
    world.runtime.kill_for_memory(sandbox.id, pid=3, command="python3")
    while not await control.memory_kills(ALICE, sandbox.id):
        await turns()

    assert [kill.pid for kill in await control.memory_kills(ALICE, sandbox.id)] == [3]
    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING


async def test_ends_that_were_lost_in_a_flood_are_found_by_looking_at_all_machines(world: World) -> None:
    world.runtime = FakeRuntime(world.directory / "machines", faults=world.faults, most_events=4)
    async with world.server() as control:
        noisy = await control.create(ALICE, wish())
        ending = await control.create(ALICE, wish())
        vanished = await control.create(ALICE, wish())
        for pid in range(10):
            world.runtime.kill_for_memory(noisy.id, pid=pid, command="python3")

        world.runtime.end(ending.id, EndReason.OOM, "the facts")
        world.runtime.end_unseen(vanished.id)
        await world.faults.reached("observe")
        while (await world.rows())[vanished.id].status is Status.RUNNING:
            await turns()
        await control.settled()

        rows = await world.rows()
        assert (rows[ending.id].end_reason, rows[ending.id].end_detail) == (EndReason.OOM, "the facts")
        assert rows[vanished.id].end_reason is EndReason.LOST
        assert rows[noisy.id].status is Status.RUNNING
        await world.assert_agreement()


async def test_machines_are_looked_at_again_when_the_first_look_fails(world: World) -> None:
    world.runtime = FakeRuntime(world.directory / "machines", faults=world.faults, most_events=1)
    world.faults.fail("observe", UnavailableError("not now"))
    async with world.server() as control:
        noisy = await control.create(ALICE, wish())
        ending = await control.create(ALICE, wish())
        world.runtime.kill_for_memory(noisy.id, pid=1, command="python3")

        world.runtime.end(ending.id, EndReason.GUEST_ENDED)
        while world.faults.passed["observe"] < 2:
            await turns(2)
            world.clock.advance(timedelta(seconds=1))
        await turns()
        await control.settled()

        assert (await world.rows())[ending.id].end_reason is EndReason.GUEST_ENDED
        await world.assert_agreement()


async def test_a_runtime_that_stops_telling_ends_the_server(world: World) -> None:
    async def no_events() -> Any:
        return
        yield

    world.runtime.events = no_events  # type: ignore[method-assign]
    with pytest.raises(BaseExceptionGroup) as caught:
        async with world.server():
            await asyncio.Event().wait()

    assert caught.group_contains(RuntimeError, match="stopped telling")


async def test_a_closing_server_undoes_creates_and_leaves_sandboxes(world: World) -> None:
    world.faults.hang("start:3", times=1)
    async with world.server() as control:
        first = asyncio.ensure_future(outcome(control.create(ALICE, wish())))
        await world.faults.reached("start:3")
        sandbox = await control.create(ALICE, wish())

    assert isinstance(await first, UnavailableError)
    await world.database.open()
    rows = await world.rows()
    assert rows.pop(sandbox.id).status is Status.RUNNING
    assert [row.end_reason for row in rows.values()] == [EndReason.START_INTERRUPTED]
    await world.assert_agreement()
    await world.database.close()
    with pytest.raises(UnavailableError, match="stopping"):
        await control.create(ALICE, wish())
