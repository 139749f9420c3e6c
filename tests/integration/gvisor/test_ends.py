"""A machine that ends by itself says why, within a second; and what hangs stalls nothing else."""

import asyncio
import signal
import time

import pytest
from support.gvisor import MIB, Host, kill

from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import EndReason
from atoll.server.host.pidfd import Pidfd

# What "at once" means here.
SOON_S = 1.0


async def test_a_killed_sentry_is_the_runtimes_end(host: Host) -> None:
    machine = await host.start()

    kill(host.sentry(machine.sandbox_id))

    ended = await host.next_end(SOON_S)
    assert (ended.sandbox_id, ended.reason) == (machine.sandbox_id, EndReason.RUNTIME_ENDED)
    assert "sentry" in ended.detail


async def test_a_killed_gofer_is_the_runtimes_end(host: Host) -> None:
    machine = await host.start()

    kill(host.gofer(machine.sandbox_id))

    ended = await host.next_end(SOON_S)
    assert (ended.sandbox_id, ended.reason) == (machine.sandbox_id, EndReason.RUNTIME_ENDED)
    assert "gofer" in ended.detail


async def test_a_killed_gofer_is_told_apart_also_by_a_server_that_looks_late(host: Host) -> None:
    machine = await host.start()
    gofer, sentry = host.gofer(machine.sandbox_id), host.sentry(machine.sandbox_id)

    kill(gofer)
    # As where the server waits for a processor: nothing runs in it until both have ended.
    with Pidfd.open(sentry.pid) as held:
        while not held.has_ended():
            time.sleep(0.005)

    ended = await host.next_end(SOON_S)
    assert (ended.sandbox_id, ended.reason) == (machine.sandbox_id, EndReason.RUNTIME_ENDED)
    assert "gofer" in ended.detail


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_killed_first_process_is_the_guests_end(host: Host, adopted: bool) -> None:
    machine = await host.start()
    if adopted:
        host.runtime = host.new_runtime()
        await host.runtime.open()

    killed = asyncio.ensure_future(host.command(machine, "sh", "-c", "kill -9 1"))

    ended = await host.next_end(SOON_S + 1)
    assert (ended.sandbox_id, ended.reason) == (machine.sandbox_id, EndReason.GUEST_ENDED)
    killed.cancel()
    await asyncio.wait([killed])


async def test_an_end_from_inside_is_told_apart_also_by_a_server_that_looks_late(host: Host) -> None:
    machine = await host.start()
    gofer, sentry = host.gofer(machine.sandbox_id), host.sentry(machine.sandbox_id)

    killed = asyncio.ensure_future(host.command(machine, "sh", "-c", "sleep 0.2; kill -9 1"))
    await asyncio.sleep(0.1)
    with Pidfd.open(sentry.pid) as first, Pidfd.open(gofer.pid) as second:
        while not (first.has_ended() and second.has_ended()):
            time.sleep(0.005)

    ended = await host.next_end(SOON_S)
    assert (ended.sandbox_id, ended.reason) == (machine.sandbox_id, EndReason.GUEST_ENDED)
    killed.cancel()
    await asyncio.wait([killed])


async def test_an_end_is_told_once_and_others_live(host: Host) -> None:
    ending, living = await host.start(), await host.start()

    kill(host.gofer(ending.sandbox_id))
    kill(host.sentry(ending.sandbox_id))

    assert (await host.next_end(SOON_S)).sandbox_id == ending.sandbox_id
    await host.assert_lives(living)
    with pytest.raises(TimeoutError):
        await host.next_end(0.5)


async def test_a_stopped_sentry_is_destroyed_quickly(host: Host) -> None:
    machine, other = await host.start(), await host.start()
    host.sentry(machine.sandbox_id).send_signal(signal.SIGSTOP)
    assert not await host.runtime.answers(machine.sandbox_id)

    began = time.monotonic()
    await host.runtime.destroy(machine.sandbox_id)

    assert time.monotonic() - began < SOON_S
    assert host.traces(machine.sandbox_id) == []
    await host.assert_lives(other)


async def test_a_stopped_sentry_stalls_no_other_machine(host: Host) -> None:
    hung, other = await host.start(), await host.start()
    host.sentry(hung.sandbox_id).send_signal(signal.SIGSTOP)

    async with asyncio.timeout(10):
        assert (await host.runtime.usage(hung.sandbox_id)).memory_bytes > 0
        assert set(await host.runtime.remains()) == {hung.sandbox_id, other.sandbox_id}
        third = await host.start()
        await host.assert_lives(third)
        await host.runtime.destroy(other.sandbox_id)


async def test_a_hung_sentry_is_ended_also_where_volumes_came_after_the_start(host: Host) -> None:
    hung = await host.start()
    # What watches it, holds it from then.
    running = host.runtime._running[hung.sandbox_id]
    await host.runtime.attach(hung.sandbox_id, [])
    host.sentry(hung.sandbox_id).send_signal(signal.SIGSTOP)

    await host.runtime._end_if_hung(running, "why")

    assert (await host.next_end(10)).reason is EndReason.RUNTIME_HUNG


async def test_a_hung_sentry_that_is_destroyed_while_it_is_asked_harms_nobody(host: Host) -> None:
    """Asking takes seconds; what comes back by then may be about a machine that is no more."""
    hung, other = await host.start(), await host.start()
    host.sentry(hung.sandbox_id).send_signal(signal.SIGSTOP)
    running = host.runtime._running[hung.sandbox_id]

    async with asyncio.TaskGroup() as group:
        asked = group.create_task(host.runtime._end_if_hung(running, "why"))
        await asyncio.sleep(0)
        await host.runtime.destroy(hung.sandbox_id)

    assert asked.exception() is None
    await host.assert_lives(other)
    with pytest.raises(TimeoutError):
        await host.next_end(0.5)


async def test_a_living_sentry_answers(host: Host) -> None:
    machine = await host.start()

    assert await host.runtime.answers(machine.sandbox_id)


async def test_all_of_a_fork_bomb_is_killed_with_its_machine(host: Host) -> None:
    machine = await host.start(Limits(cpus=2, memory_bytes=512 * MIB, processes=400, disk_bytes=64 * MIB))
    bomb = asyncio.ensure_future(_bomb(host, machine))
    await host.runtime.answers(machine.sandbox_id)

    await host.runtime.destroy(machine.sandbox_id)

    assert host.traces(machine.sandbox_id) == []
    bomb.cancel()
    await asyncio.wait([bomb])


async def _bomb(host: Host, machine: Machine) -> None:
    await host.command(machine, "bash", "-c", "f() { f | f & }; f; sleep 100")
