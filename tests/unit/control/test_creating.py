"""Creates: what comes up, what fails and how it is undone, who waits, who is refused."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.world import ALICE, SECRET, World, outcome, small, turns, wish

from atoll.server.control.requests import LimitsOverride
from atoll.server.control.rows.access import access_token
from atoll.server.control.service import Control
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    AbortedError,
    AtollError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.sandbox import EndReason, Sandbox, Status, Target
from atoll.server.domain.template import StartCommand
from atoll.server.ports.store import SandboxFilter
from atoll.server.runtimes.fake.runtime import START_PLACES
from atoll.server.runtimes.fake.templates import BASE, FakeTemplates

STEPS = [*START_PLACES, "configure"]
SERVICE = replace(
    BASE,
    id=TemplateId("service-000000000000"),
    name="service",
    start=StartCommand(command="serve", ready="asks", timeout_s=7),
)


async def only_row(world: World) -> Sandbox:
    (row,) = (await world.rows()).values()
    return row


async def test_a_created_sandbox_runs_until_its_deadline(world: World, control: Control) -> None:
    sandbox = await control.create(
        ALICE,
        wish(metadata={"a": "b"}, env={"X": "1"}, egress=EgressPolicy(internet=False), secured=False),
    )

    assert sandbox.status is Status.RUNNING
    assert sandbox.deadline == world.clock.now() + timedelta(minutes=5)
    assert (sandbox.metadata, sandbox.env, sandbox.limits) == ({"a": "b"}, {"X": "1"}, BASE.limits)
    assert await control.get(ALICE, sandbox.id) == sandbox
    assert (await world.rows())[sandbox.id] == sandbox
    await world.assert_agreement()


async def test_the_edge_is_told_of_one_that_is_being_created(world: World, control: Control) -> None:
    world.faults.hang("configure")
    creating = asyncio.create_task(control.create(ALICE, wish()))
    await world.faults.reached("configure")
    row = await only_row(world)

    route = await control.routing.route(row.id)

    assert (route.sandbox_id, route.status, route.address) == (row.id, Status.CREATING, None)
    creating.cancel()


async def test_the_guest_is_told_all_it_has_to_know(world: World, control: Control) -> None:
    first = await control.create(ALICE, wish(env={"LANG": "de", "X": "1"}))
    second = await control.create(ALICE, wish(secured=False))

    told = world.guest.configurations[first.id]
    assert dict(told.env) == {"LANG": "de", "X": "1"}
    assert told.access_token == access_token(SECRET, first.id) == control.access_token(first.id)
    assert (told.address, told.dns_servers) == (first.address, ("169.254.1.1",))
    assert (told.processes, told.memory_bytes) == (1024, 512 * 1024**2)
    assert len(told.machine_id) == 32
    other = world.guest.configurations[second.id]
    assert other.access_token == ""
    assert (other.machine_id, other.address) != (told.machine_id, told.address)


async def test_a_template_s_start_command_is_ready_before_the_sandbox_runs(world: World) -> None:
    world.templates = FakeTemplates(BASE, SERVICE)
    async with world.server() as control:
        plain = await control.create(ALICE, wish())
        sandbox = await control.create(ALICE, wish(template="service"))

        assert world.guest.launched == {sandbox.id: SERVICE.start}
        assert (plain.status, sandbox.status) == (Status.RUNNING, Status.RUNNING)


async def test_a_start_command_that_does_not_get_ready_fails_the_create_and_is_undone(world: World) -> None:
    world.templates = FakeTemplates(SERVICE)
    world.faults.fail("launch", FailedPreconditionError("not ready", details="no port"))
    async with world.server() as control:
        with pytest.raises(FailedPreconditionError, match="not ready"):
            await control.create(ALICE, wish(template="service"))

        row = await only_row(world)
        assert (row.status, row.end_reason) == (Status.FAILED, EndReason.START_FAILED)
        assert "step launch" in (row.end_detail or "")
        await world.assert_agreement()


async def test_the_time_to_live_begins_when_the_sandbox_runs(world: World, control: Control) -> None:
    world.faults.hang("configure")
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(control.create(ALICE, wish()))
        await world.faults.reached("configure")
        row = await only_row(world)
        assert (row.status, row.started_at) == (Status.CREATING, None)
        slow.cancel()
    await control.settled()
    assert (await only_row(world)).end_reason is EndReason.START_INTERRUPTED


async def test_limits_of_the_wish_replace_those_of_the_template(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish(limits=LimitsOverride(memory_bytes=256 * 1024**2)))

    assert sandbox.limits.memory_bytes == 256 * 1024**2
    assert sandbox.limits.disk_bytes == BASE.limits.disk_bytes


@pytest.mark.parametrize("step", STEPS)
async def test_a_failing_step_is_undone_and_named(world: World, control: Control, step: str) -> None:
    world.faults.fail(step, UnavailableError("no luck", details="the facts"))

    with pytest.raises(UnavailableError, match="no luck") as caught:
        await control.create(ALICE, wish())

    assert caught.value.reason is Reason.CREATE_FAILED
    row = await only_row(world)
    assert (row.status, row.target, row.end_reason) == (
        Status.FAILED,
        Target.RUNNING,
        EndReason.START_FAILED,
    )
    assert row.end_detail is not None
    assert row.end_detail.startswith(f"step {step.split(':')[0]}: no luck\nthe facts")
    await world.assert_agreement()
    assert (await control.create(ALICE, wish())).status is Status.RUNNING


@pytest.mark.parametrize("step", STEPS)
async def test_a_surprise_is_undone_like_a_failure(world: World, control: Control, step: str) -> None:
    world.faults.fail(step, ZeroDivisionError("oops"))

    with pytest.raises(ZeroDivisionError):
        await control.create(ALICE, wish())

    await world.assert_agreement()


@pytest.mark.parametrize("step", STEPS)
async def test_a_caller_who_goes_away_leaves_nothing(world: World, control: Control, step: str) -> None:
    world.faults.hang(step)
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(control.create(ALICE, wish()))
        await world.faults.reached(step)
        caller.cancel()
    await control.settled()

    row = await only_row(world)
    assert (row.status, row.end_reason) == (Status.FAILED, EndReason.START_INTERRUPTED)
    await world.assert_agreement()


@pytest.mark.parametrize("step", STEPS)
async def test_undoing_survives_a_second_cancellation(world: World, control: Control, step: str) -> None:
    world.faults.hang(step)
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(control.create(ALICE, wish()))
        await world.faults.reached(step)
        caller.cancel()
        await turns(3)
        caller.cancel()
        await control.settled()

    await world.assert_agreement()


@pytest.mark.parametrize(("step", "word"), [("start:2", "start"), ("configure", "configuration")])
async def test_a_hanging_step_ends_by_its_limit(tmp_path: Path, step: str, word: str) -> None:
    soon = timedelta(milliseconds=20)
    world = World(tmp_path, small(start_timeout=soon, configure_timeout=soon))
    async with world.server() as control:
        world.faults.hang(step)

        with pytest.raises(DeadlineExceededError, match=word):
            await control.create(ALICE, wish())

        assert (await only_row(world)).end_reason is EndReason.START_FAILED
        await world.assert_agreement()


async def test_undoing_that_fails_goes_on_behind_the_caller(world: World, control: Control) -> None:
    world.faults.fail("configure", UnavailableError("deaf"))
    world.faults.fail("destroy:1", UnavailableError("stuck"), times=5)
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(outcome(control.create(ALICE, wish())))
        while not caller.done():
            await turns(2)
            world.clock.advance(timedelta(minutes=1))
    assert str(caller.result()) == "deaf"
    assert (await only_row(world)).status is Status.KILLING

    while world.faults.passed["destroy:1"] < 6:
        world.clock.advance(timedelta(minutes=1))
        await turns(2)
    await control.settled()

    await world.assert_agreement()


async def test_a_machine_that_ends_during_its_start_fails_the_create(world: World, control: Control) -> None:
    world.faults.hang("configure")
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(outcome(control.create(ALICE, wish())))
        await world.faults.reached("configure")
        world.runtime.end((await only_row(world)).id, EndReason.OOM, "wall")

    assert isinstance(caller.result(), UnavailableError)
    row = await only_row(world)
    assert (row.status, row.end_reason, row.end_detail) == (Status.FAILED, EndReason.OOM, "wall")
    await world.assert_agreement()


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_during_a_create_ends_it(world: World, control: Control, step: str) -> None:
    world.faults.hang(step)
    async with asyncio.TaskGroup() as group:
        creator = group.create_task(outcome(control.create(ALICE, wish())))
        await world.faults.reached(step)
        killed = await control.kill(ALICE, (await only_row(world)).id)

    assert isinstance(creator.result(), AbortedError)
    assert (killed.status, killed.target, killed.end_reason) == (
        Status.KILLED,
        Target.KILLED,
        EndReason.KILLED,
    )
    await world.assert_agreement()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"timeout": timedelta()}, "Timeout must be greater than 0"),
        ({"timeout": timedelta(seconds=-1)}, "Timeout must be greater than 0"),
        ({"timeout": timedelta(hours=24, seconds=1)}, "Timeout cannot be greater than 24 hours"),
        ({"timeout": timedelta.max}, "Timeout cannot be greater than 24 hours"),
        ({"metadata": {str(number): "" for number in range(65)}}, "Too many metadata"),
        ({"metadata": {"k" * 257: ""}}, "metadata key"),
        ({"metadata": {"k": "v" * 4097}}, "metadata value"),
        ({"metadata": {"k": "ü" * 2049}}, "metadata value"),
        ({"metadata": {"k": "a\0b"}}, "NUL"),
        ({"metadata": {"k\0": "a"}}, "NUL"),
        ({"metadata": {"k": "\ud800"}}, "not valid Unicode"),
        ({"env": {"": "x"}}, "empty"),
        ({"env": {"A=B": "x"}}, "="),
        ({"env": {"A": "x\0"}}, "NUL"),
        ({"env": {"A\udfff": "x"}}, "not valid Unicode"),
        ({"env": {"A": "x" * 65537}}, "environment variable"),
        ({"env": {f"A{number}": "" for number in range(257)}}, "Too many environment variables"),
        ({"env": {f"A{number}": "x" * 60_000 for number in range(9)}}, "together"),
        ({"limits": LimitsOverride(cpus=0)}, "CPUs must be between"),
        ({"limits": LimitsOverride(cpus=float("nan"))}, "CPUs must be between"),
        ({"limits": LimitsOverride(cpus=float("inf"))}, "CPUs must be between"),
        ({"limits": LimitsOverride(cpus=10**6)}, "CPUs must be between"),
        ({"limits": LimitsOverride(memory_bytes=-1)}, "Memory must be between"),
        ({"limits": LimitsOverride(memory_bytes=2**60)}, "Memory must be between"),
        ({"limits": LimitsOverride(processes=0)}, "Processes must be between"),
        ({"limits": LimitsOverride(disk_bytes=1)}, "Disk must be between"),
    ],
)
async def test_bad_wishes_are_refused_before_anything_is_written(
    world: World, control: Control, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await control.create(ALICE, wish(**changes))

    assert text in caught.value.message
    assert len(caught.value.message) < 300
    caught.value.message.encode()
    assert await world.rows() == {}


@pytest.mark.parametrize("name", ["base", "base:latest", "base:default", f"{BASE.id}:latest"])
async def test_tags_that_mean_what_there_is_change_nothing(control: Control, name: str) -> None:
    sandbox = await control.create(ALICE, wish(template=name))

    assert (sandbox.template_id, sandbox.template_alias) == (BASE.id, name.partition(":")[0])


@pytest.mark.parametrize("tag", ["v2", "", "latest:default", "Latest", "it's"])
async def test_another_tag_is_said_not_to_be_there(world: World, control: Control, tag: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        await control.create(ALICE, wish(template=f"base:{tag}"))

    assert caught.value.message == f"tag '{tag}' does not exist for template 'base'"
    with pytest.raises(NotFoundError, match="template 'nope' not found"):
        await control.create(ALICE, wish(template=f"nope:{tag}"))
    assert await world.rows() == {}


@pytest.mark.parametrize("name", ["nope", "", "../base", "a\0b", "x" * 100_000, "\ud800", ":latest"])
async def test_an_unknown_template_is_named(world: World, control: Control, name: str) -> None:
    with pytest.raises(NotFoundError, match=r"template '.*' not found") as caught:
        await control.create(ALICE, wish(template=name))

    assert len(caught.value.message) < 200
    caught.value.message.encode()
    assert await world.rows() == {}


async def test_the_most_sandboxes_are_not_exceeded_by_creates_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, small(max_sandboxes=3))
    async with world.server() as control, asyncio.TaskGroup() as group:
        calls = [group.create_task(outcome(control.create(ALICE, wish()))) for _ in range(8)]
        await asyncio.wait(calls)

        refused = [call.result() for call in calls if isinstance(call.result(), AtollError)]
        assert len(refused) == 5
        assert all(isinstance(error, ResourceExhaustedError) for error in refused)
        assert "(3)" in str(refused[0])
        assert await control.count(ALICE, SandboxFilter()) == 3
        await world.assert_agreement()


async def test_an_ended_sandbox_makes_room(tmp_path: Path) -> None:
    world = World(tmp_path, small(max_sandboxes=1))
    async with world.server() as control:
        first = await control.create(ALICE, wish())
        await control.kill(ALICE, first.id)

        assert (await control.create(ALICE, wish())).status is Status.RUNNING


async def test_a_full_host_is_the_callers_error(world: World, control: Control) -> None:
    world.faults.fail("start:2", ResourceExhaustedError("no space"))

    with pytest.raises(ResourceExhaustedError, match="no space"):
        await control.create(ALICE, wish())

    await world.assert_agreement()


async def test_a_create_that_fails_on_a_full_disk_is_undone_when_there_is_room(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed cannot be written down either; its machine must not stay for that."""

    async def full(*_: Any) -> None:
        raise ResourceExhaustedError("The server's disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(world.store, "replace_sandbox", full)
        with pytest.raises(ResourceExhaustedError, match="disk is full"):
            await control.create(ALICE, wish())
        await world.clock.slept_until(world.clock.now() + timedelta(seconds=1))
        assert (await only_row(world)).status is Status.CREATING
    world.clock.advance(timedelta(seconds=1))
    await control.settled()

    row = await only_row(world)
    assert (row.status, row.end_reason) == (Status.FAILED, EndReason.START_FAILED)
    await world.assert_agreement()


async def test_only_so_many_start_at_once_and_a_long_queue_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, small(concurrent_starts=2, queued_starts=3))
    async with world.server() as control:
        world.faults.hang("start:3", times=2)
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(outcome(control.create(ALICE, wish()))) for _ in range(6)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)

            assert isinstance(calls[5].result(), ResourceExhaustedError)
            assert "3 wait already" in str(calls[5].result())
            assert world.faults.passed["start:1"] == 2
            # One of the two hanging starts is given up: its turn goes to those who wait, one by one.
            calls[0].cancel()
            await asyncio.wait(calls[2:])
            calls[1].cancel()
        await control.settled()

        assert [call.result().status for call in calls[2:5]] == [Status.RUNNING] * 3
        await world.assert_agreement()


async def test_nobody_waits_for_a_turn_for_ever(tmp_path: Path) -> None:
    limits = small(concurrent_starts=1, start_queue_timeout=timedelta(milliseconds=20))
    world = World(tmp_path, limits)
    async with world.server() as control:
        world.faults.hang("start:3")
        async with asyncio.TaskGroup() as group:
            first = group.create_task(outcome(control.create(ALICE, wish())))
            await world.faults.reached("start:3")

            with pytest.raises(ResourceExhaustedError, match=r"no turn within 0\.02 s") as caught:
                await control.create(ALICE, wish())
            assert caught.value.reason is Reason.NO_TURN

            first.cancel()
