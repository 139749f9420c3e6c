"""What a machine may use, kept against guests that try for more; every other machine goes on."""

import asyncio
import time

import pytest
from support.gvisor import MIB, SMALL, Host, Output

from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import MachineEnded, ProcessKilledForMemory
from atoll.server.domain.sandbox import EndReason
from atoll.server.runtimes.gvisor.options import GVisorOptions

# Fills memory page by page until it is stopped.
GREEDY = (
    "blocks = []\n"
    "while True:\n"
    "    block = bytearray(1 << 20)\n"
    "    for at in range(0, 1 << 20, 4096): block[at] = 1\n"
    "    blocks.append(block)\n"
)


async def test_a_process_that_takes_too_much_memory_is_killed_and_the_machine_lives(host: Host) -> None:
    machine, other = await host.start(), await host.start()

    output = await host.python(machine, GREEDY)

    assert output.exit_code != 0
    event = await host.next_event(5)
    assert isinstance(event, ProcessKilledForMemory)
    assert event.sandbox_id == machine.sandbox_id
    assert "python" in event.command
    assert event.resident_bytes > 100 * MIB
    await host.assert_lives(machine)
    await host.assert_lives(other)


async def test_ten_greedy_processes_at_once_are_killed_and_the_machine_lives(host: Host) -> None:
    machine, other = await host.start(), await host.start()

    outputs = await asyncio.gather(*(host.python(machine, GREEDY, timeout_s=120) for _ in range(10)))

    assert all(output.exit_code != 0 for output in outputs)
    await host.assert_lives(machine)
    await host.assert_lives(other)


async def test_memory_below_the_promise_is_left_alone(host: Host) -> None:
    machine = await host.start()

    output = await host.python(
        machine, "block = bytearray(150 << 20); import time; time.sleep(2); print('done')"
    )

    assert output.stdout == "done\n"


async def test_files_in_the_cache_are_no_offence(host: Host) -> None:
    """The cache can hold the usage at the wall; memory then has to be watched all the same."""
    limits = Limits(cpus=2, memory_bytes=192 * MIB, processes=64, disk_bytes=1024 * MIB)
    machine = await host.start(limits)

    written = await host.command(
        machine, "sh", "-c", "head -c 700000000 /dev/zero > /big && cat /big > /dev/null && echo written"
    )
    assert written.stdout == "written\n", written
    greedy = await host.python(machine, GREEDY)

    assert greedy.exit_code != 0
    assert isinstance(await host.next_event(5), ProcessKilledForMemory)
    await host.assert_lives(machine)


async def test_a_machine_that_frees_nothing_ends_at_the_wall_and_says_so(host: Host) -> None:
    """The second line: nobody kills inside, and the wall is not set higher."""
    host.options = GVisorOptions(memory_kills_a_look=0, memory_wall_steps=0)
    await host.runtime.close()
    host.runtime = host.new_runtime()
    await host.runtime.open()
    machine, other = await host.start(), await host.start()

    greedy = asyncio.ensure_future(host.python(machine, GREEDY))

    ended = await host.next_end(30)
    assert (ended.sandbox_id, ended.reason) == (machine.sandbox_id, EndReason.OOM)
    await _drop(greedy)
    await host.assert_lives(other)
    await host.runtime.destroy(machine.sandbox_id)
    assert host.traces(machine.sandbox_id) == []


async def test_memory_is_seen_to_when_the_next_server_comes(host: Host) -> None:
    machine = await host.start()
    await host.runtime.close()
    greedy = asyncio.ensure_future(
        host.python(machine, "block = bytearray(b'x') * (300 << 20); import time; time.sleep(1000)")
    )
    cgroup = host.places.cgroup(machine.sandbox_id)
    async with asyncio.timeout(30):
        while cgroup.memory_resident() < SMALL.memory_bytes + 40 * MIB:
            await asyncio.sleep(0.01)

    host.runtime = host.new_runtime()
    assert await host.runtime.open() == [machine]

    assert isinstance(await host.next_event(10), ProcessKilledForMemory)
    assert (await greedy).exit_code != 0
    await host.assert_lives(machine)


async def test_a_fork_bomb_meets_the_inner_limit_and_the_machine_lives(host: Host) -> None:
    machine, other = await host.start(), await host.start()

    output = await host.python(
        machine,
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 10000:\n"
        "        if os.fork() == 0: time.sleep(100); os._exit(0)\n"
        "        made += 1\n"
        "except BlockingIOError as error: print('refused', made < 64)\n"
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.killpg(0, signal.SIGTERM)\n",
    )

    assert "refused True" in output.stdout
    await host.assert_lives(other)
    await host.assert_lives(machine)


async def test_root_who_lifts_the_inner_limit_ends_his_machine_by_name(host: Host) -> None:
    few = Limits(cpus=2, memory_bytes=2048 * MIB, processes=16, disk_bytes=64 * MIB)
    machine, other = await host.start(few), await host.start()

    bomb = asyncio.ensure_future(
        host.python(
            machine,
            "import os, time\n"
            "for path, _, names in os.walk('/sys/fs/cgroup'):\n"
            "    if 'pids.max' in names: open(path + '/pids.max', 'w').write('max')\n"
            "while True:\n"
            "    try:\n"
            "        if os.fork() == 0: time.sleep(1000)\n"
            "    except OSError: time.sleep(0.01)\n",
        )
    )

    ended = await host.next_end(60)
    assert (ended.sandbox_id, ended.reason) == (machine.sandbox_id, EndReason.PROCESS_LIMIT)
    await _drop(bomb)
    await host.assert_lives(other)
    await host.runtime.destroy(machine.sandbox_id)
    assert host.traces(machine.sandbox_id) == []


async def test_a_full_disk_is_an_error_inside_and_the_machine_lives(host: Host) -> None:
    machine = await host.start()

    output = await host.command(machine, "sh", "-c", "head -c 400000000 /dev/urandom > /big")

    assert "No space left on device" in output.stderr
    assert (await host.runtime.usage(machine.sandbox_id)).disk_bytes <= SMALL.disk_bytes * 1.1
    await host.command(machine, "rm", "/big")
    await host.assert_lives(machine)


async def test_tmp_is_bounded_as_the_disk_is(host: Host) -> None:
    machine = await host.start()

    output = await host.command(machine, "sh", "-c", "head -c 400000000 /dev/zero > /tmp/big")

    assert "No space left on device" in output.stderr
    await host.assert_lives(machine)


async def test_shared_memory_has_a_size(host: Host) -> None:
    machine = await host.start()

    output = await host.command(machine, "sh", "-c", "head -c 400000000 /dev/zero > /dev/shm/big")

    assert "No space left on device" in output.stderr
    await host.assert_lives(machine)


async def test_dev_filled_with_files_is_bounded_as_memory_is(host: Host) -> None:
    """gVisor's /dev takes no size: what is in it counts as memory, which nobody inside holds."""
    machine, other = await host.start(), await host.start()

    filling = asyncio.ensure_future(
        host.command(machine, "sh", "-c", "head -c 2000000000 /dev/zero > /dev/big; rm -f /dev/big")
    )

    event = await host.next_event(30)
    if isinstance(event, MachineEnded):
        assert event.reason is EndReason.OOM
        await _drop(filling)
    else:
        assert event.sandbox_id == machine.sandbox_id
        await filling
    assert host.places.cgroup(machine.sandbox_id).memory_resident() < SMALL.memory_bytes + 512 * MIB
    await host.assert_lives(other)


async def test_a_hundred_thousand_empty_files_are_bounded(host: Host) -> None:
    machine, other = await host.start(), await host.start()

    output = await host.python(
        machine,
        "import os\n"
        "os.mkdir('/many')\n"
        "for number in range(100000): os.close(os.open(f'/many/{number}', os.O_CREAT | os.O_WRONLY))\n"
        "print('made')",
        timeout_s=120,
    )

    assert output.stdout == "made\n" or output.exit_code != 0
    await host.assert_lives(other)
    assert (await host.runtime.usage(machine.sandbox_id)).memory_bytes < SMALL.memory_bytes + 128 * MIB
    await host.assert_lives(machine)


async def test_processor_time_is_what_was_promised(host: Host) -> None:
    machine = await host.start(Limits(cpus=0.5, memory_bytes=256 * MIB, processes=64, disk_bytes=64 * MIB))
    before = (await host.runtime.usage(machine.sandbox_id)).cpu_seconds
    began = time.monotonic()

    await host.python(machine, "import time; end = time.time() + 3\nwhile time.time() < end: pass")

    spent = (await host.runtime.usage(machine.sandbox_id)).cpu_seconds - before
    assert spent / (time.monotonic() - began) == pytest.approx(0.5, abs=0.15)


async def _drop(call: "asyncio.Future[Output]") -> None:
    """Give up on a call into a machine that is gone: TCP would wait for 46 s."""
    call.cancel()
    await asyncio.wait([call])
