"""Every promise of ports/runtime.py, for every runtime."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from contract.hosts import HOSTS, LIMITS, RuntimeHost

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import AtollError, NotFoundError
from atoll.server.domain.ids import SandboxId, TemplateId, new_sandbox_id
from atoll.server.domain.machine import EventsLost, MachineEnded, MachineEvent, MachineSpec, Observation
from atoll.server.ports.runtime import Runtime

# For what should happen at once, on a machine that has other things to do as well.
SOON = 30


@pytest.fixture(params=list(HOSTS))
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with HOSTS[request.param](tmp_path / "home") as made:
        yield made
        # Whatever the test did, the host is as it was.
        async with opened(made) as runtime:
            for sandbox_id in await runtime.remains():
                await runtime.destroy(sandbox_id)
            assert list(await runtime.remains()) == []


@asynccontextmanager
async def opened(host: RuntimeHost) -> AsyncIterator[Runtime]:
    runtime = host.make()
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


def spec(host: RuntimeHost, **changes: Any) -> MachineSpec:
    sandbox_id = new_sandbox_id()
    values: dict[str, Any] = {
        "sandbox_id": sandbox_id,
        "template_id": host.template,
        "hostname": sandbox_id,
        "limits": LIMITS,
        "egress": EgressPolicy(internet=False),
    }
    return MachineSpec(**{**values, **changes})


async def next_end(events: AsyncIterator[MachineEvent]) -> MachineEnded:
    async with asyncio.timeout(SOON):
        async for event in events:
            if isinstance(event, MachineEnded):
                return event
    raise AssertionError("the runtime stopped telling what happens")


async def test_a_fresh_home_has_no_machines(host: RuntimeHost) -> None:
    runtime = host.make()

    assert list(await runtime.open()) == []
    assert list(await runtime.remains()) == []
    await runtime.close()


async def test_the_programs_of_machines_have_one_name_for_every_server_of_a_home(host: RuntimeHost) -> None:
    names = []
    for _ in range(2):
        async with opened(host) as runtime:
            names += [await runtime.release(), await runtime.release()]

    assert names[0].isalnum()
    assert len(set(names)) == 1


async def test_a_started_machine_is_there_and_can_be_reached_somewhere(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        wanted = spec(host)

        machine = await runtime.start(wanted)

        assert machine.sandbox_id == wanted.sandbox_id
        assert IPv4Address(machine.address)
        assert list(await runtime.remains()) == [wanted.sandbox_id]
        usage = await runtime.usage(wanted.sandbox_id)
        assert usage.memory_bytes > 0
        assert usage.cpu_seconds >= 0
        assert usage.cache_bytes >= 0
        assert usage.disk_bytes >= 0
        assert set(await runtime.usages()) == {wanted.sandbox_id}


async def test_machines_start_at_once_and_have_addresses_of_their_own(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        machines = await asyncio.gather(*(runtime.start(spec(host)) for _ in range(4)))

        assert len({machine.address for machine in machines}) == 4
        assert set(await runtime.remains()) == {machine.sandbox_id for machine in machines}


async def test_machines_outlive_the_object_and_the_next_one_finds_them(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        machines = [await runtime.start(spec(host)) for _ in range(2)]

    successor = host.make()
    found = await successor.open()
    try:
        assert sorted(found, key=str) == sorted(machines, key=str)
        assert (await successor.usage(machines[0].sandbox_id)).memory_bytes > 0
    finally:
        await successor.close()


async def test_what_a_machine_may_reach_can_be_changed(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        machine = await runtime.start(spec(host))
        for policy in (EgressPolicy(deny_out=("192.175.48.0/24",)), EgressPolicy(), EgressPolicy()):
            await runtime.set_egress(machine.sandbox_id, policy)
        with pytest.raises(NotFoundError):
            await runtime.set_egress(new_sandbox_id(), EgressPolicy())


async def test_a_found_machine_is_watched_again(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        machine = await runtime.start(spec(host))

    async with opened(host) as successor:
        await host.end(successor, machine.sandbox_id)

        assert (await next_end(successor.events())).sandbox_id == machine.sandbox_id


async def test_destroy_removes_all_and_may_be_repeated(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        gone = await runtime.start(spec(host))
        kept = await runtime.start(spec(host))

        await runtime.destroy(gone.sandbox_id)

        assert list(await runtime.remains()) == [kept.sandbox_id]
        with pytest.raises(NotFoundError):
            await runtime.usage(gone.sandbox_id)
        await runtime.destroy(gone.sandbox_id)
        assert (await runtime.usage(kept.sandbox_id)).memory_bytes > 0


async def test_destroying_what_never_was_does_nothing(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        await runtime.destroy(new_sandbox_id())

        assert list(await runtime.remains()) == []


async def test_what_an_earlier_object_started_can_be_destroyed(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        machine = await runtime.start(spec(host))

    async with opened(host) as successor:
        await successor.destroy(machine.sandbox_id)

        assert list(await successor.remains()) == []


async def test_an_unknown_template_is_not_found_and_leaves_nothing_that_destroy_does_not_remove(
    host: RuntimeHost,
) -> None:
    async with opened(host) as runtime:
        wanted = spec(host, template_id=TemplateId("nope-000000000000"))

        with pytest.raises(NotFoundError):
            await runtime.start(wanted)

        await runtime.destroy(wanted.sandbox_id)
        assert list(await runtime.remains()) == []


@pytest.mark.parametrize("moment", [0, 0.003, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2])
async def test_a_start_that_is_cancelled_leaves_nothing_that_destroy_does_not_remove(
    host: RuntimeHost, moment: float
) -> None:
    async with opened(host) as runtime:
        wanted = spec(host)
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(runtime.start(wanted))
            await asyncio.wait([starting], timeout=moment)
            starting.cancel()

        await runtime.destroy(wanted.sandbox_id)

        assert list(await runtime.remains()) == []


async def test_half_a_start_is_listed_for_the_next_object(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        wanted = spec(host)
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(runtime.start(wanted))
            while not await runtime.remains() and not starting.done():
                await asyncio.sleep(0)
            starting.cancel()

    async with opened(host) as successor:
        assert list(await successor.remains()) == [wanted.sandbox_id]
        await successor.destroy(wanted.sandbox_id)
        assert list(await successor.remains()) == []


async def test_a_machine_that_ends_by_itself_is_told_of_and_waits_for_destroy(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        machine = await runtime.start(spec(host))

        await host.end(runtime, machine.sandbox_id)

        ended = await next_end(runtime.events())
        assert ended.sandbox_id == machine.sandbox_id
        assert ended.detail
        assert list(await runtime.remains()) == [machine.sandbox_id]
        await runtime.destroy(machine.sandbox_id)
        assert list(await runtime.remains()) == []


async def test_a_machine_that_was_destroyed_is_not_told_of(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        destroyed = await runtime.start(spec(host))
        ending = await runtime.start(spec(host))
        await runtime.destroy(destroyed.sandbox_id)

        await host.end(runtime, ending.sandbox_id)

        assert (await next_end(runtime.events())).sandbox_id == ending.sandbox_id


async def test_ends_that_found_no_room_are_told_as_lost_and_can_be_observed(host: RuntimeHost) -> None:
    runtime = host.make_short()
    await runtime.open()
    try:
        ending = [(await runtime.start(spec(host))).sandbox_id for _ in range(3)]
        living = await runtime.start(spec(host))
        for sandbox_id in ending:
            await host.end(runtime, sandbox_id)
        await observed_ends(runtime, 3)

        async with asyncio.timeout(SOON):
            told = await anext(aiter(runtime.events()))

        assert told == EventsLost(number=2)
        seen = await runtime.observe()
        assert list(seen.machines) == [living]
        assert {end.sandbox_id for end in seen.ended} == set(ending)
        assert all(end.detail for end in seen.ended)
        for sandbox_id in (*ending, living.sandbox_id):
            await runtime.destroy(sandbox_id)
        assert await runtime.observe() == Observation(machines=(), ended=())
    finally:
        await runtime.close()


async def observed_ends(runtime: Runtime, number: int) -> None:
    # The events are what is not read here, so nothing tells.
    async with asyncio.timeout(SOON):
        while len((await runtime.observe()).ended) < number:
            await asyncio.sleep(0.01)


async def test_a_machine_that_ended_unseen_is_no_machine_but_remains(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        machine = await runtime.start(spec(host))
    await host.end_unseen(machine.sandbox_id)

    successor = host.make()
    found = await successor.open()
    try:
        assert list(found) == []
        assert list(await successor.remains()) == [machine.sandbox_id]
        await successor.destroy(machine.sandbox_id)
    finally:
        await successor.close()


async def test_what_is_not_there_has_no_usage(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        with pytest.raises(NotFoundError):
            await runtime.usage(new_sandbox_id())


async def test_errors_of_a_runtime_are_of_the_one_tree(host: RuntimeHost) -> None:
    async with opened(host) as runtime:
        with pytest.raises(AtollError):
            await runtime.start(spec(host, template_id=TemplateId("../../etc")))
        for sandbox_id in await runtime.remains():
            await runtime.destroy(SandboxId(sandbox_id))
