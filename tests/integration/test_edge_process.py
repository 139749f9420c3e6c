"""The edge's life, with the real program: started, adopted, watched, told, ended."""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from atoll.server.domain.errors import InvalidArgumentError, UnavailableError
from atoll.server.domain.ids import new_sandbox_id
from atoll.server.edge import EdgeLimits, EdgeOptions, EdgeProcess
from atoll.server.edge.certificates import ensure_egress_authority
from atoll.server.host.daemon import listener_of
from atoll.server.host.pidfd import Pidfd
from atoll.server.host.ports import free_port

PROGRAM = Path(sys.executable).parent / "atoll-edge"
# An edge that is stopped by SIGSTOP answers never; the tests wait this long to be sure.
IMPATIENT = EdgeLimits(answer_s=0.5, stop_s=5, restart_pause_s=0.01)


def hang(pid: int) -> None:
    """Stop a program; return when it has: each thread answers until the kernel comes to it."""
    os.kill(pid, signal.SIGSTOP)
    limit = time.monotonic() + 5
    while states(pid) != {"T"}:
        assert time.monotonic() < limit, f"{pid} does not stop"
        time.sleep(0.001)


def states(pid: int) -> set[str]:
    """List the states of a program's threads; one that ends meanwhile has none."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.add((task / "stat").read_text().rpartition(") ")[2][0])
    return found


def opened(pid: int) -> set[str]:
    """List what a program has open; what it closes meanwhile may be missing."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return found


@pytest.fixture
def options(tmp_path: Path) -> Iterator[EdgeOptions]:
    options = EdgeOptions(
        program=PROGRAM,
        listen=(f"127.0.0.1:{free_port()}",),
        api_socket=tmp_path / "api.sock",
        control_socket=tmp_path / "control.sock",
        admin_socket=tmp_path / "edge.sock",
        address_range="127.0.0.0/8",
        dns_listen=None,
        egress_listen=None,
        egress_mark=0,
        log_file=tmp_path / "edge.log",
        log_bytes=1_000_000,
        log_files=1,
    )
    yield options
    # Whatever a test left behind.
    if (held := listener_of(options.admin_socket)) is not None:
        with held:
            held.send_signal(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(held.identity.pid, 0)


@pytest.fixture
async def edge(options: EdgeOptions) -> AsyncIterator[EdgeProcess]:
    process = EdgeProcess(options, IMPATIENT)
    yield process
    await process.stop()
    await process.close()


@contextlib.asynccontextmanager
async def watched(edge: EdgeProcess) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(edge.watch())
        yield
        task.cancel()


async def get(options: EdgeOptions) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(
            f"http://{options.listen[0]}/", headers={"E2b-Sandbox-Id": "bad", "E2b-Sandbox-Port": "1"}
        )


async def until_other_than(edge: EdgeProcess, pid: int) -> int:
    """Ask until an edge with another number answers."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(UnavailableError):
                if (found := (await edge.status()).pid) != pid:
                    return found
            await asyncio.sleep(0.01)


async def test_it_serves_once_it_was_ensured(edge: EdgeProcess, options: EdgeOptions) -> None:
    status = await edge.ensure()

    assert status.listen == options.listen
    assert status.flags == options.flags
    assert status.routes == 0
    assert (await get(options)).json() == {"code": 400, "message": "Invalid sandbox ID"}
    assert options.admin_socket.stat().st_mode & 0o777 == 0o600
    assert options.log_file.stat().st_mode & 0o777 == 0o600


async def test_it_is_a_session_of_its_own_and_holds_nothing_of_ours(edge: EdgeProcess) -> None:
    with Path(os.devnull).open() as ours:
        os.set_inheritable(ours.fileno(), True)
        pid = (await edge.ensure()).pid

    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    files = {link for link in opened(pid) if not link.startswith(("socket:", "anon_inode:", "pipe:"))}
    assert files <= {os.devnull, str(edge._options.log_file)} | {
        f for f in files if f.startswith("/sys/fs/cgroup")
    }
    assert str(Path(f"/proc/{pid}/fd/1").readlink()) == os.devnull


async def test_a_second_server_adopts_it(edge: EdgeProcess, options: EdgeOptions) -> None:
    first = await edge.ensure()
    await edge.close()

    second = EdgeProcess(options, IMPATIENT)
    found = await second.ensure()
    await second.stop()
    await second.close()

    assert (found.pid, found.started_at) == (first.pid, first.started_at)


@pytest.fixture
def reaching(options: EdgeOptions, tmp_path: Path) -> EdgeOptions:
    """An edge that carries what sandboxes send to the world."""
    authority = tmp_path / "egress.pem"
    ensure_egress_authority(authority, "abc123", datetime.now(UTC))
    return dataclasses.replace(
        options,
        dns_listen=f"127.0.0.1:{free_port()}",
        egress_listen=f"127.0.0.1:{free_port()}",
        egress_authority=authority,
        server_roots=authority,
        proxy_networks=("10.1.0.0/16", "fd00::/8"),
    )


async def test_one_that_reaches_the_world_is_adopted_too(reaching: EdgeOptions) -> None:
    first, second = EdgeProcess(reaching, IMPATIENT), EdgeProcess(reaching, IMPATIENT)
    try:
        started, adopted = await first.ensure(), await second.ensure()
    finally:
        await first.stop()
        await first.close()
        await second.close()

    assert adopted.pid == started.pid
    assert started.flags == reaching.flags


async def test_it_says_where_a_proxy_may_be(reaching: EdgeOptions) -> None:
    edge = EdgeProcess(reaching, IMPATIENT)
    await edge.ensure()
    try:
        for fine in ("10.1.2.3", "fd00::1", "192.175.48.1"):
            await edge.check_proxy(fine)
        for wrong in ("10.2.0.1", "127.0.0.1", "::1", "::ffff:10.2.0.1", "127.1", "", "a b", "x" * 300):
            with pytest.raises(InvalidArgumentError, match="egressProxy: "):
                await edge.check_proxy(wrong)
    finally:
        await edge.stop()
        with pytest.raises(UnavailableError):
            await edge.check_proxy("192.175.48.1")
        await edge.close()


async def test_one_with_other_flags_is_replaced(edge: EdgeProcess, options: EdgeOptions) -> None:
    first = await edge.ensure()
    other = EdgeProcess(dataclasses.replace(options, address_range="127.0.0.0/16"), IMPATIENT)

    found = await other.ensure()
    await other.stop()
    await other.close()

    assert found.pid != first.pid
    assert found.flags["range"] == "127.0.0.0/16"


async def test_one_whose_program_was_replaced_is_replaced(options: EdgeOptions, tmp_path: Path) -> None:
    program = tmp_path / "atoll-edge"
    shutil.copy(PROGRAM, program)
    edge = EdgeProcess(dataclasses.replace(options, program=program), IMPATIENT)
    first = await edge.ensure()
    await edge.close()
    program.unlink()
    shutil.copy(PROGRAM, program)

    upgraded = EdgeProcess(dataclasses.replace(options, program=program), IMPATIENT)
    found = await upgraded.ensure()
    await upgraded.stop()
    await upgraded.close()

    assert found.pid != first.pid


async def test_one_that_hangs_is_replaced_by_the_next_server(edge: EdgeProcess, options: EdgeOptions) -> None:
    first = await edge.ensure()
    await edge.close()
    hang(first.pid)

    second = EdgeProcess(options, IMPATIENT)
    found = await second.ensure()
    await second.stop()
    await second.close()

    assert found.pid != first.pid


async def test_it_is_started_again_when_it_dies(edge: EdgeProcess, options: EdgeOptions) -> None:
    pid = (await edge.ensure()).pid
    async with watched(edge):
        for _ in range(2):
            os.kill(pid, signal.SIGKILL)
            pid = await until_other_than(edge, pid)

        assert (await get(options)).status_code == 400


async def test_forgetting_an_unknown_route_is_no_error(edge: EdgeProcess) -> None:
    pid = (await edge.ensure()).pid

    await edge.forget(new_sandbox_id())

    assert (await edge.status()).pid == pid


async def test_one_that_does_not_forget_is_restarted(edge: EdgeProcess) -> None:
    pid = (await edge.ensure()).pid
    hang(pid)

    async with asyncio.timeout(5):
        await edge.forget(new_sandbox_id())

    assert (await edge.status()).pid != pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_forgetting_with_no_edge_alive_starts_one(edge: EdgeProcess) -> None:
    pid = (await edge.ensure()).pid
    with Pidfd.open(pid) as held:
        await held.kill(patience_s=5)

        await edge.forget(new_sandbox_id())

    assert (await edge.status()).pid != pid


async def test_many_forget_at_a_hung_edge_and_it_restarts_once(
    edge: EdgeProcess, options: EdgeOptions
) -> None:
    pid = (await edge.ensure()).pid
    hang(pid)

    async with watched(edge), asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(edge.forget(new_sandbox_id()))

    assert (await edge.status()).pid != pid
    assert options.log_file.read_text().count("edge ready") == 2


async def test_stopping_leaves_nothing(edge: EdgeProcess, options: EdgeOptions) -> None:
    pid = (await edge.ensure()).pid
    async with asyncio.timeout(5), watched(edge):
        await edge.stop()

    assert not options.admin_socket.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_one_that_another_server_started_can_be_stopped(
    edge: EdgeProcess, options: EdgeOptions
) -> None:
    pid = (await edge.ensure()).pid
    await edge.close()

    other = EdgeProcess(options, IMPATIENT)
    await other.stop()
    await other.stop()
    await other.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_its_log_is_bounded_from_its_start(edge: EdgeProcess, options: EdgeOptions) -> None:
    options.log_file.write_bytes(b"x" * options.log_bytes)

    await edge.ensure()

    assert b"edge ready" in options.log_file.read_bytes()
    assert options.log_file.stat().st_size < 10_000
    assert options.log_file.with_name("edge.log.1").stat().st_size == options.log_bytes


async def test_a_taken_address_is_said(edge: EdgeProcess, options: EdgeOptions) -> None:
    host, port = options.listen[0].split(":")
    with socket.create_server((host, int(port))), pytest.raises(UnavailableError) as failure:
        await edge.ensure()

    assert "address already in use" in str(failure.value)


async def test_a_missing_program_is_said(options: EdgeOptions, tmp_path: Path) -> None:
    edge = EdgeProcess(dataclasses.replace(options, program=tmp_path / "none"), IMPATIENT)

    with pytest.raises(UnavailableError) as failure:
        await edge.ensure()
    await edge.close()

    assert "No such file" in str(failure.value)


async def test_a_program_that_never_gets_ready_is_killed(options: EdgeOptions, tmp_path: Path) -> None:
    program = tmp_path / "hang"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    program.chmod(0o700)
    edge = EdgeProcess(dataclasses.replace(options, program=program), EdgeLimits(start_s=0.5))

    with pytest.raises(UnavailableError):
        await edge.ensure()
    await edge.close()

    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
