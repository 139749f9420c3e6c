"""What goes wrong while a machine is written down or restored harms nothing that was there before."""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.disks import mounted
from support.gvisor import MIB, Host, gvisor_host, kill

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    AtollError,
    DeadlineExceededError,
    FailedPreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import EndReason
from atoll.server.host.runsc import Runsc
from atoll.server.runtimes.gvisor.flags import FLAGS
from atoll.server.runtimes.gvisor.launch import Launcher
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.leaving import Leaving

MEMORY, FILES = CheckpointKind.MEMORY, CheckpointKind.FILES
# linux/sched.h
PF_EXITING = 4


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """One that looks at no free space before, so that a disk gets full meanwhile."""
    async with gvisor_host(GVisorOptions(least_free_disk_bytes=0, save_timeout_s=3)) as made:
        yield made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 8 * MIB) as disk:
        yield disk


async def fill(host: Host, machine: Machine, mib: int) -> None:
    """Have so much in memory, and as much on the disk."""
    script = "for d in /dev/shm /root; do head -c $0M /dev/urandom > $d/fill; done; sha256sum /dev/shm/fill"
    assert (await host.command(machine, "sh", "-c", script, str(mib))).exit_code == 0


@pytest.mark.parametrize("kind", [MEMORY, FILES])
@pytest.mark.parametrize("leave_running", [True, False])
async def test_a_full_disk_is_said_and_the_machine_runs_on(
    small_disk: Path, host: Host, kind: CheckpointKind, leave_running: bool
) -> None:
    machine = await host.start()
    await fill(host, machine, 20)

    free = shutil.disk_usage(small_disk).free
    for _ in range(2):
        with pytest.raises(ResourceExhaustedError, match="disk is full"):
            await host.runtime.checkpoint(
                machine.sandbox_id, small_disk / "one", kind=kind, leave_running=leave_running
            )

        assert [path.name for path in small_disk.iterdir()] == ["lost+found"]
        # The sentry holds what it had begun to write, empty.
        assert free - shutil.disk_usage(small_disk).free < 64 * 1024
        await host.assert_lives(machine)


async def test_a_machine_that_does_not_fit_its_host_is_not_even_begun(small_disk: Path, host: Host) -> None:
    careful = replace(host.options, least_free_disk_bytes=64 * MIB)
    machine = await host.start()
    host.options = careful
    host.runtime = host.new_runtime()
    await host.runtime.open()

    with pytest.raises(ResourceExhaustedError, match="disk is full"):
        await host.runtime.checkpoint(
            machine.sandbox_id, small_disk / "one", kind=MEMORY, leave_running=False
        )

    await host.assert_lives(machine)


async def runsc_at(host: Host, verb: str) -> psutil.Process:
    """Wait until a runsc of this home does something."""
    async with asyncio.timeout(10):
        while True:
            for process in psutil.process_iter(["cmdline"]):
                words = process.info["cmdline"] or []
                if verb in words and f"--root={host.places.runsc_state}" in words:
                    return process
            await asyncio.sleep(0)


async def sentry_of(host: Host, machine: Machine) -> psutil.Process:
    """Wait until a machine that is on its way has a sentry."""
    async with asyncio.timeout(10):
        while True:
            for pid in host.places.cgroup(machine.sandbox_id).pids():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if psutil.Process(pid).cmdline()[:1] == ["runsc-sandbox"]:
                        return psutil.Process(pid)
            await asyncio.sleep(0)


async def test_a_sentry_killed_while_it_is_written_down_is_an_end_as_any(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    await fill(host, machine, 40)
    sentry = host.sentry(machine.sandbox_id)

    saving = asyncio.create_task(
        host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
    )
    await runsc_at(host, "checkpoint")
    kill(sentry)

    with pytest.raises(UnavailableError):
        await saving
    ended = await host.next_end(5)
    assert (ended.sandbox_id, ended.reason) == (machine.sandbox_id, EndReason.RUNTIME_ENDED)
    assert list(tmp_path.iterdir()) == []
    await host.runtime.destroy(machine.sandbox_id)
    assert host.traces(machine.sandbox_id) == []


async def test_a_killed_runsc_is_no_harm_to_the_machine_that_it_wrote_down(
    host: Host, tmp_path: Path
) -> None:
    machine = await host.start()
    await fill(host, machine, 40)

    saving = asyncio.create_task(
        host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
    )
    kill(await runsc_at(host, "checkpoint"))

    with pytest.raises(UnavailableError):
        await saving
    assert list(tmp_path.iterdir()) == []
    await host.assert_lives(machine)
    await host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
    spec = replace(host.spec(), sandbox_id=machine.sandbox_id)
    await host.runtime.restore(spec, tmp_path / "one")
    await host.assert_lives(machine)


async def die_in_a_restore(host: Host, machine: Machine, whom: str) -> None:
    """Kill one of those who restore a machine, while they do; return when that restore is over."""
    process = await runsc_at(host, "restore")
    if whom == "runsc":
        kill(process)
    else:
        sentry = await sentry_of(host, machine)
        # It asks the sentry for all that follows, and would otherwise be done by now on some days.
        process.suspend()
        kill(sentry)
        process.resume()
    async with asyncio.timeout(10):
        while process.is_running():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("whom", ["runsc", "sentry"])
async def test_a_death_during_a_restore_is_the_callers_only_when_it_comes_again(
    host: Host, tmp_path: Path, whom: str
) -> None:
    machine = await host.start()
    await fill(host, machine, 40)
    await host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
    spec = replace(host.spec(), sandbox_id=machine.sandbox_id)

    restoring = asyncio.create_task(host.runtime.restore(spec, tmp_path / "one"))
    for _ in range(2):
        await die_in_a_restore(host, machine, whom)
    with pytest.raises(AtollError):
        await restoring
    await host.runtime.abandon(machine.sandbox_id)

    assert host.traces(machine.sandbox_id) == [str(host.path / "slots" / f"{machine.sandbox_id}.json")]
    restoring = asyncio.create_task(host.runtime.restore(spec, tmp_path / "one"))
    await die_in_a_restore(host, machine, whom)
    assert await restoring == machine
    await host.assert_lives(machine)


def is_killed(pid: int) -> bool:
    """Say whether a process has ended, or ends before its next instruction."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        flags = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6])
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s+([0-9a-f]+)", status, re.MULTILINE)
    return bool(flags & PF_EXITING) or any(int(mask, 16) & 1 << (signal.SIGKILL - 1) for mask in pending)


def no_room(path: Path) -> None:
    """Be what makes a file where the disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def slot_of(host: Host, machine: Machine) -> str:
    """Name all that is left of one that is paused."""
    return str(host.path / "slots" / f"{machine.sandbox_id}.json")


async def test_a_paused_machine_is_killed_when_it_is_told_and_silent_until_it_is_gone(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await host.start()
    await fill(host, machine, 40)
    spinning = host.command(machine, "sh", "-c", "while :; do :; done")
    group, heard = host.places.cgroup(machine.sandbox_id), []
    hush = host.slots.hush

    async def noted(sandbox_id: SandboxId, silent: bool) -> None:
        heard.append((silent, group.exists()))
        await hush(sandbox_id, silent)

    monkeypatch.setattr(host.slots, "hush", noted)
    spinner = asyncio.ensure_future(spinning)
    await host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)

    assert all(is_killed(pid) for pid in group.pids())
    await host.runtime.close()
    assert heard == [(True, True), (False, False)]
    assert host.traces(machine.sandbox_id) == [slot_of(host, machine)]
    spinner.cancel()
    await asyncio.wait([spinner])


@pytest.mark.parametrize(("killed", "full"), [(True, False), (False, False), (False, True)])
async def test_what_a_killed_server_left_of_a_paused_machine_is_removed_by_the_next(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool, full: bool
) -> None:
    machine, other = await host.start(), await host.start()
    # It gets as far as that, or has not even killed it.
    monkeypatch.setattr(Leaving, "begin", lambda *_: None)
    if not killed:
        monkeypatch.setattr(type(host.places.cgroup(machine.sandbox_id)), "kill_once", lambda _: None)
    if full:
        monkeypatch.setattr(Path, "touch", no_room)
    await host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    monkeypatch.undo()

    host.runtime = host.new_runtime()
    assert await host.runtime.open() == [other]
    # Behind that, and at the latest here.
    await host.runtime.close()

    assert host.traces(machine.sandbox_id) == [slot_of(host, machine)]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == files
    await host.runtime.open()
    spec = replace(host.spec(), sandbox_id=machine.sandbox_id)
    assert await host.runtime.restore(spec, tmp_path / "one") == machine
    await host.assert_lives(machine)


async def test_room_is_looked_for_when_the_machine_has_given_its_own_back(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await host.start()
    await fill(host, machine, 40)
    group, held = host.places.cgroup(machine.sandbox_id), []
    # A sentry that ends holds the file of what was written, which has no name.
    monkeypatch.setattr(Launcher, "_check_room", lambda _: held.append(group.exists()))
    await host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)

    spec = replace(host.spec(), sandbox_id=machine.sandbox_id)
    assert await host.runtime.restore(spec, tmp_path / "one") == machine

    assert held == [False]


async def test_a_machine_that_stood_still_for_its_end_goes_on_with_the_next_server(host: Host) -> None:
    machine = await host.start()
    host.places.cgroup(machine.sandbox_id).freeze()

    host.runtime = host.new_runtime()
    await host.runtime.open()

    await host.assert_lives(machine)


async def test_a_hung_sentry_is_not_written_down_and_stalls_nobody(host: Host, tmp_path: Path) -> None:
    machine, other = await host.start(), await host.start()
    sentry = host.sentry(machine.sandbox_id)
    sentry.suspend()
    try:
        began = time.monotonic()
        saving = asyncio.create_task(
            host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
        )
        await host.runtime.checkpoint(other.sandbox_id, tmp_path / "two", kind=MEMORY, leave_running=True)
        assert time.monotonic() - began < 2
        with pytest.raises(DeadlineExceededError):
            await saving
    finally:
        sentry.resume()
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


async def test_a_server_that_died_while_programs_stood_still_has_them_go_on(host: Host) -> None:
    machine, untouched = await host.start(), await host.start()
    runsc = Runsc(host.places.runsc, host.places.runsc_state, flags=FLAGS)
    # As far as it came with the one, and with the other.
    for one in (machine, untouched):
        host.places.directory(one.sandbox_id).pausing.touch()
    await runsc.pause(machine.sandbox_id, timeout_s=10)

    host.runtime = host.new_runtime()
    await host.runtime.open()

    for one in (machine, untouched):
        await host.assert_lives(one)
        async with asyncio.timeout(5):
            while host.places.directory(one.sandbox_id).pausing.exists():
                await asyncio.sleep(0.01)


async def test_what_another_program_or_processor_wrote_is_refused_by_name(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    await host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
    copies = host.places.guestds
    (kept,) = copies.iterdir()

    kept.rename(copies.with_name("away"))
    with pytest.raises(FailedPreconditionError, match=f"guestd {kept.name[:12]} is not kept here"):
        await host.runtime.restore(host.spec(), tmp_path / "one")
    copies.with_name("away").rename(kept)

    assert (await host.runtime.remains()) == [machine.sandbox_id]


def written_elsewhere(checkpoint: Path, *features: str) -> None:
    """Have a checkpoint say that it was written on a processor that has these features, too."""
    manifest = checkpoint / "manifest.json"
    outer = json.loads(manifest.read_text())
    body = outer["checkpoint"]
    body["cpu_features"] = [*body["cpu_features"], *features]
    outer["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps(outer))


async def test_memory_of_a_processor_that_had_more_is_refused_by_name_and_files_are_not(
    host: Host, tmp_path: Path
) -> None:
    machine, other = await host.start(), await host.start()
    await host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
    await host.runtime.checkpoint(other.sandbox_id, tmp_path / "two", kind=FILES, leave_running=False)
    original = (tmp_path / "one" / "manifest.json").read_text()
    for name in ("one", "two"):
        written_elsewhere(tmp_path / name, "amx_of_tomorrow", "avx10")

    spec = replace(host.spec(), sandbox_id=machine.sandbox_id)
    with pytest.raises(FailedPreconditionError, match="missing here: amx_of_tomorrow, avx10"):
        await host.runtime.restore(spec, tmp_path / "one")

    # No program is in the other one.
    files = replace(host.spec(), sandbox_id=other.sandbox_id)
    assert await host.runtime.restore(files, tmp_path / "two") == other
    # Nothing of the refused one is in the way.
    (tmp_path / "one" / "manifest.json").write_text(original)
    await host.assert_lives(await host.runtime.restore(spec, tmp_path / "one"))
