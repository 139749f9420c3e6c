"""What a machine is like when it has started, and what is left when it is gone."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from support import cgroups
from support.gvisor import MIB, Host, kill

from atoll.server.domain.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.limits import Limits
from atoll.server.runtimes.gvisor.options import GVisorOptions


async def test_a_machine_shows_what_it_was_promised(host: Host) -> None:
    limits = Limits(cpus=1, memory_bytes=300 * MIB, processes=64, disk_bytes=123 * MIB)

    machine = await host.start(limits)

    seen = await host.python(
        machine,
        "import os, resource, json\n"
        "memory = int(open('/proc/meminfo').readline().split()[1]) * 1024\n"
        "disk = os.statvfs('/')\n"
        "print(json.dumps({'memory': memory, 'disk': disk.f_blocks * disk.f_frsize,\n"
        " 'name': os.uname().nodename, 'uid': os.getuid(),\n"
        " 'files': resource.getrlimit(resource.RLIMIT_NOFILE),\n"
        " 'shm': os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize}))",
    )
    assert json.loads(seen.stdout) == {
        "memory": 300 * MIB,
        "disk": 123 * MIB,
        "name": "tiny",
        "uid": 0,
        "files": [1024, 1048576],
        "shm": 64 * MIB,
    }


async def test_tmp_is_on_the_root_disk(host: Host) -> None:
    machine = await host.start()

    same = await host.python(machine, "import os; print(os.stat('/tmp').st_dev == os.stat('/').st_dev)")

    assert same.stdout == "True\n"


async def test_guestd_cannot_be_changed_by_root_inside(host: Host) -> None:
    machine = await host.start()
    before = hashlib.sha256(host.places.guestd.read_bytes()).digest()

    tried = await host.command(machine, "sh", "-c", "echo x > /.atoll/guestd")

    assert "Read-only" in tried.stderr
    assert hashlib.sha256(host.places.guestd.read_bytes()).digest() == before


async def test_what_a_machine_writes_is_not_in_the_template_nor_in_the_next_machine(host: Host) -> None:
    machine = await host.start()
    await host.command(machine, "sh", "-c", "echo x > /etc/changed && rm /etc/hostname; sync")

    second = await host.start()

    assert not (await host.templates.rootfs(host.template) / "etc/changed").exists()
    assert (await host.command(second, "cat", "/etc/changed")).exit_code == 1


async def test_the_users_privileges_can_be_raised(host: Host) -> None:
    machine = await host.start()
    await host.command(
        machine, "sh", "-c", "cp /usr/bin/id /usr/local/bin/rootid && chmod u+s /usr/local/bin/rootid"
    )

    seen = await host.command(machine, "/usr/local/bin/rootid", "-u", user="user")

    assert seen.stdout == "0\n"


async def test_destroy_leaves_nothing(host: Host) -> None:
    machine = await host.start()
    assert host.traces(machine.sandbox_id)

    await host.runtime.destroy(machine.sandbox_id)

    assert host.traces(machine.sandbox_id) == []
    assert await host.slots.find(machine.sandbox_id) is None


async def test_a_written_disk_is_given_back_when_the_sentry_is_killed(host: Host) -> None:
    machine = await host.start()
    await host.command(machine, "sh", "-c", "head -c 50000000 /dev/urandom > /big")
    assert (await host.runtime.usage(machine.sandbox_id)).disk_bytes >= 50_000_000
    # The layer's file has no name, so there is nothing to remove.
    assert list(host.places.directory(machine.sandbox_id).overlay.iterdir()) == []

    kill(host.sentry(machine.sandbox_id))

    assert (await host.next_end(5)).sandbox_id == machine.sandbox_id


async def test_half_a_start_that_stands_still_is_removed(host: Host) -> None:
    machine = await host.start()
    # As a server leaves it that is killed while it kills: on cgroup v1 nothing ends that is frozen.
    half = replace(host.record(machine.sandbox_id), sentry=None, gofer=None)
    half.write(host.places.directory(machine.sandbox_id).path)
    host.places.cgroup(machine.sandbox_id).freeze()

    await host.runtime.destroy(machine.sandbox_id)

    assert host.traces(machine.sandbox_id) == []


async def test_the_same_id_does_not_start_twice(host: Host) -> None:
    spec = host.spec()
    await host.runtime.start(spec)

    with pytest.raises(AlreadyExistsError):
        await host.runtime.start(spec)


async def test_a_guestd_that_does_not_start_is_an_error_with_its_words(host: Host) -> None:
    broken = host.path / "broken"
    broken.write_text("#!/bin/sh\necho its last words >&2\n")
    broken.chmod(0o755)
    host.places = _with_guestd(host, broken)
    runtime = host.new_runtime()
    await runtime.open()
    spec = host.spec()

    with pytest.raises(UnavailableError) as caught:
        await runtime.start(spec)

    assert "its last words" in str(caught.value.details)
    await runtime.destroy(spec.sandbox_id)
    assert host.traces(spec.sandbox_id) == []
    await runtime.close()


async def test_a_guestd_that_never_is_ready_meets_the_deadline(host: Host) -> None:
    silent = host.path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o755)
    host.places = _with_guestd(host, silent)
    host.options = GVisorOptions(start_timeout_s=2)
    runtime = host.new_runtime()
    await runtime.open()
    spec = host.spec()

    with pytest.raises(DeadlineExceededError):
        await runtime.start(spec)

    await runtime.destroy(spec.sandbox_id)
    assert host.traces(spec.sandbox_id) == []
    await runtime.close()


async def test_a_full_host_disk_refuses_a_start(host: Host) -> None:
    free = shutil.disk_usage(host.path).free
    host.options = GVisorOptions(least_free_disk_bytes=free * 2)
    runtime = host.new_runtime()
    await runtime.open()
    spec = host.spec()

    with pytest.raises(ResourceExhaustedError) as caught:
        await runtime.start(spec)

    assert caught.value.reason is Reason.DISK_FULL
    assert "least_free_disk_bytes" in str(caught.value.details)
    assert host.traces(spec.sandbox_id) == []
    await runtime.close()


@pytest.mark.parametrize("moment_s", [0.0, 0.01, 0.03, 0.05, 0.08, 0.12])
async def test_a_start_that_is_cancelled_can_be_destroyed(host: Host, moment_s: float) -> None:
    spec = host.spec()
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(host.runtime.start(spec))
        await asyncio.wait([starting], timeout=moment_s)
        starting.cancel()

    await host.runtime.destroy(spec.sandbox_id)

    assert host.traces(spec.sandbox_id) == []


async def test_a_start_that_a_killed_server_left_under_way_can_be_destroyed(host: Host) -> None:
    """The runsc that starts outlives its server, and goes on outside of the sandbox's control group."""
    spec = host.spec()
    starting = asyncio.ensure_future(host.runtime.start(spec))
    launcher = await _launcher(spec.sandbox_id)
    os.kill(launcher, signal.SIGSTOP)

    successor = host.new_runtime()
    assert await successor.open() == []
    await successor.destroy(spec.sandbox_id)

    assert host.traces(spec.sandbox_id) == []
    with pytest.raises(UnavailableError):
        await starting
    await successor.destroy(spec.sandbox_id)
    await successor.close()


async def test_many_start_at_once(host: Host) -> None:
    machines = await asyncio.gather(*(host.start() for _ in range(6)))

    outputs = await asyncio.gather(*(host.command(machine, "hostname") for machine in machines))

    assert [output.stdout for output in outputs] == ["tiny\n"] * 6


async def test_an_adopted_machine_works_and_its_end_is_told(host: Host) -> None:
    machine = await host.start()
    # As a killed server does: nothing is closed.
    host.runtime = host.new_runtime()

    assert await host.runtime.open() == [machine]

    await host.assert_lives(machine)
    kill(host.sentry(machine.sandbox_id))
    assert (await host.next_end(1)).sandbox_id == machine.sandbox_id


async def test_nothing_of_a_home_is_left_once_it_is_taken_down(host: Host) -> None:
    machine = await host.start()
    await host.runtime.destroy(machine.sandbox_id)

    host.runtime.remove_shared()

    assert cgroups.of_home(host.places.home_id) == []
    assert str(host.path) not in Path("/proc/self/mounts").read_text()


def _with_guestd(host: Host, program: Path):
    return replace(host.places, guestd=program)


async def _launcher(sandbox_id: str) -> int:
    async with asyncio.timeout(10):
        while True:
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    words = (process / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if sandbox_id.encode() in words and b"run" in words:
                    return int(process.name)
            await asyncio.sleep(0)
