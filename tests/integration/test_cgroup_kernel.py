"""Control groups on the kernel of this machine, with real processes."""

import asyncio
import os
import resource
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atoll.server.host import cgroup, cgroup_moves, scheduling
from atoll.server.host.cgroup_base import MOUNT, Cgroup, CgroupError
from atoll.server.host.cgroup_v2 import watch_file

MIB = 1024 * 1024


@pytest.fixture
async def group() -> AsyncIterator[Cgroup]:
    made = cgroup.open_cgroup(f"/atoll-test-{secrets.token_hex(3)}/one")
    made.create(memory_bytes=64 * MIB, processes=50)
    yield made
    await made.kill(timeout_s=10)
    await made.remove(timeout_s=10)
    cgroup.remove_empty(str(Path(made.path).parent))
    assert not made.exists()


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def run_in(group: Cgroup, code: str) -> subprocess.Popen[str]:
    """Run Python in a group from its first instruction."""
    files = [str(path / "cgroup.procs") for path in group.directories() if path.is_dir()]
    join = f"import os\nfor file in {files!r}: open(file, 'w').write(str(os.getpid()))\n"
    return subprocess.Popen([sys.executable, "-c", join + code], stdout=subprocess.PIPE, text=True)


async def test_all_processes_of_a_group_are_killed(group: Cgroup, processes: list) -> None:
    bomb = run_in(
        group,
        "import time\n"
        "while True:\n"
        "    try:\n"
        "        if os.fork() == 0: time.sleep(1000)\n"
        "    except OSError: pass",
    )
    processes.append(bomb)
    async with asyncio.timeout(20):
        while not group.refused_processes():
            await asyncio.sleep(0)

    await group.kill(timeout_s=10)

    assert group.pids() == []


async def test_memory_is_told_near_the_mark(group: Cgroup, processes: list) -> None:
    crossed = asyncio.Event()
    end = await group.watch_memory(30 * MIB, 60 * MIB, crossed.set)
    processes.append(run_in(group, "block = bytearray(b'x') * (40 << 20); import time; time.sleep(1000)"))

    async with asyncio.timeout(20):
        await crossed.wait()
    end()

    assert group.memory_total() > 25 * MIB


@pytest.mark.skipif(cgroup.version() != 1, reason="only version 1 lets processes wait at the wall")
async def test_processes_wait_at_the_wall_and_go_on_when_it_is_set_higher(
    group: Cgroup, processes: list
) -> None:
    reached = asyncio.Event()
    end = group.stop_at_wall(reached.set)
    greedy = run_in(group, "block = bytearray(b'x') * (100 << 20); print('done', flush=True)")
    processes.append(greedy)
    async with asyncio.timeout(20):
        await reached.wait()
    assert greedy.poll() is None
    assert group.out_of_memory_kills() == 0

    group.set_memory_wall(256 * MIB)

    assert greedy.stdout is not None
    assert await asyncio.wait_for(asyncio.to_thread(greedy.stdout.readline), 20) == "done\n"
    end()


async def test_what_waited_before_the_watch_is_told_too(group: Cgroup, processes: list) -> None:
    if cgroup.version() != 1:
        pytest.skip("only version 1 lets processes wait at the wall")
    first = asyncio.Event()
    end = group.stop_at_wall(first.set)
    processes.append(run_in(group, "block = bytearray(b'x') * (100 << 20)"))
    async with asyncio.timeout(20):
        await first.wait()
    end()
    second = asyncio.Event()

    end = group.stop_at_wall(second.set)

    async with asyncio.timeout(5):
        await second.wait()
    end()
    group.set_memory_wall(256 * MIB)


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Have no file opened in this process during the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_watch_without_descriptors_is_an_error_of_the_group(group: Cgroup) -> None:
    """Whoever watches goes on without one; any other error would end the server."""
    with without_descriptors():
        with pytest.raises(CgroupError):
            await group.watch_memory(30 * MIB, 60 * MIB, lambda: None)
        if cgroup.version() == 1:
            with pytest.raises(CgroupError):
                group.stop_at_wall(lambda: None)
        with pytest.raises(CgroupError):
            watch_file(Path("/proc/self/stat"), lambda: None)


async def test_the_kernel_tells_changes_of_a_file_of_version_2() -> None:
    """Version 1 machines have an empty version 2 beside it, whose events work alike."""
    top = MOUNT if cgroup.version() == 2 else MOUNT / "unified"
    if not (top / "cgroup.procs").exists():
        pytest.skip(f"no cgroup v2 at {top}")
    directory = top / f"atoll-test-{secrets.token_hex(3)}"
    directory.mkdir()
    changed = asyncio.Event()
    process = subprocess.Popen(["sleep", "1000"])
    try:
        end = watch_file(directory / "cgroup.events", changed.set)
        (directory / "cgroup.procs").write_text(str(process.pid))
        async with asyncio.timeout(5):
            await changed.wait()
        changed.clear()
        process.kill()
        process.wait()
        async with asyncio.timeout(5):
            await changed.wait()
        end()
        assert "populated 0" in (directory / "cgroup.events").read_text()
    finally:
        process.kill()
        process.wait()
        directory.rmdir()


def test_a_process_lets_others_go_first_and_is_let_go_again(processes: list) -> None:
    process = subprocess.Popen(["sleep", "1000"])
    processes.append(process)

    scheduling.let_wait([process.pid, 2**22 - 1])
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE

    scheduling.let_run([process.pid])
    assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER


def test_quick_moves_leave_this_process_where_it_is() -> None:
    before = Path("/proc/self/cgroup").read_text()
    moves = cgroup_moves.QuickMoves()

    with moves.wanted(), moves.wanted():
        pass
    with moves.wanted():
        pass

    assert Path("/proc/self/cgroup").read_text() == before


async def test_an_idle_group_may_use_later_what_it_left(group: Cgroup, processes: list) -> None:
    """Without bursts, 30 ms of work are stopped after 20 for the rest of the period."""
    group.set_cpus(0.2)
    worker = run_in(
        group,
        "import time\n"
        "time.sleep(1)\n"
        "began, cpu = time.monotonic(), time.process_time()\n"
        "while time.process_time() - cpu < 0.03: pass\n"
        "print(time.monotonic() - began)",
    )
    processes.append(worker)
    assert float(worker.communicate(timeout=30)[0]) < 0.08
