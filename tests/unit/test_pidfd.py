"""Processes held by a descriptor: opened by number and start time, watched, signalled."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from atoll.server.host.pidfd import Pidfd, read_start_time


@contextlib.contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with sleeper() as process:
        yield process


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_opens_the_process_that_was_written_down(child: subprocess.Popen[bytes]) -> None:
    with Pidfd.open(child.pid) as first, Pidfd.open(child.pid, start_time=first.identity.start_time) as again:
        assert again.identity == first.identity
        assert not again.has_ended()


def test_refuses_a_number_that_another_process_has_now(child: subprocess.Popen[bytes]) -> None:
    started = read_start_time(child.pid)
    assert started is not None
    before = open_files()

    with pytest.raises(ProcessLookupError):
        Pidfd.open(child.pid, start_time=started - 1)

    assert open_files() == before


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_refuses_what_is_no_process(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        Pidfd.open(pid)


def test_start_time_is_read_behind_a_name_full_of_parentheses(tmp_path: Path) -> None:
    program = tmp_path / ") 1 (2) x"
    program.symlink_to("/bin/sleep")

    with subprocess.Popen([program, "60"]) as child, sleeper() as plain:
        try:
            odd, even = read_start_time(child.pid), read_start_time(plain.pid)
        finally:
            child.kill()

    assert odd is not None
    assert even is not None
    assert 0 <= even - odd < 60 * os.sysconf("SC_CLK_TCK")


async def test_many_tasks_see_the_end_of_one_process(child: subprocess.Popen[bytes]) -> None:
    before = open_files()
    with Pidfd.open(child.pid) as held:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(held.wait_ended())
            assert held.send_signal(signal.SIGKILL)

        assert held.has_ended()
    assert open_files() == before


async def test_a_cancelled_wait_leaves_no_descriptor_behind(child: subprocess.Popen[bytes]) -> None:
    with Pidfd.open(child.pid) as held:
        before = open_files()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await held.wait_ended()

        assert open_files() == before


def test_uvloop_sees_the_end_too(child: subprocess.Popen[bytes]) -> None:
    async def watch() -> None:
        with Pidfd.open(child.pid) as held:
            held.send_signal(signal.SIGKILL)
            async with asyncio.timeout(10):
                await held.wait_ended()

    uvloop.run(watch())


async def test_a_process_that_was_waited_for_cannot_be_signalled(child: subprocess.Popen[bytes]) -> None:
    with Pidfd.open(child.pid) as held:
        child.kill()
        child.wait()

        assert held.has_ended()
        assert not held.send_signal(signal.SIGKILL)


async def test_one_that_ignores_sigterm_is_killed() -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with Pidfd.open(child.pid) as held:
            await held.terminate(patience_s=0.2)

        assert child.wait() == -signal.SIGKILL


async def test_one_that_heeds_sigterm_is_not_killed(child: subprocess.Popen[bytes]) -> None:
    with Pidfd.open(child.pid) as held:
        await held.terminate(patience_s=10)

    assert child.wait() == -signal.SIGTERM
