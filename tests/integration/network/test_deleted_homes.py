"""A home that was deleted without being taken down has nothing any more once another one starts."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from support import cgroups
from support.network import home_record, network_home
from support.sources import PYTHONPATH

from atoll.server.domain.errors import ResourceExhaustedError
from atoll.server.host import mounts
from atoll.server.host.cgroup import open_cgroup
from atoll.server.host.netlink import Netlink
from atoll.server.network import dead_homes, home_network, host_settings, ranges
from atoll.server.network.home_records import HomeRecords
from atoll.server.network.names import Names
from atoll.server.runtimes.gvisor.places import cgroup_parent

MIB = 1024 * 1024
RECORDS = HomeRecords(home_network.RUN_DIR)

# A process of its own starts a home, and is killed while it gives up another.
CUT_OFF = """
import os, signal, sys
from pathlib import Path
from atoll.server.network import dead_homes, fence, home_network, making, ranges
from atoll.server.network.host_settings import HostSettings

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

owner, name = {
    "nothing is gone": (making, "remove_slots"),
    "the slots are gone": (dead_homes, "_remove_mounts"),
    "the mounts are gone": (ranges, "release_locked"),
    "the range is released": (fence, "take_down"),
    "the fence is gone": (HostSettings, "release"),
}[sys.argv[1]]
setattr(owner, name, die)
with home_network._packetfilter() as nftables:
    dead_homes.sweep(nftables, run_dir=home_network.RUN_DIR)
"""


@dataclass
class Killed:
    """A home whose server was killed: its slots, its control groups and a mount are there."""

    id: str
    path: Path
    server: "subprocess.Popen[str]"
    range: IPv4Network

    @property
    def names(self) -> Names:
        return Names(self.id)

    @property
    def group(self) -> str:
        return f"{cgroup_parent(self.id)}/isandbox"

    def kill_server(self) -> None:
        self.server.kill()
        self.server.wait()

    def delete(self) -> None:
        """As `rm -rf` does, which fails at what is mounted, and removes all else."""
        shutil.rmtree(self.path, ignore_errors=True)
        assert not (self.path / "home.json").exists()

    def left(self) -> set[str]:
        """Say what of it is on this machine."""
        tables = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
        with Netlink() as netlink:
            claimed, links = ranges.is_claimed(self.id, netlink), netlink.names().values()
        found = {
            "range": claimed,
            "record": RECORDS.read(self.id) is not None,
            "fence": self.names.table in tables,
            "settings": self.id in host_settings.holders(home_network.RUN_DIR),
            "namespaces": any(Path("/run/netns").glob(f"{self.names.namespace_prefix}*")),
            "links": any(name.startswith(self.names.veth_prefix) for name in links),
            "cgroups": bool(cgroups.of_home(self.id)),
            "mounts": bool(mounts.below(self.path)),
        }
        return {what for what, there in found.items() if there}


@pytest.fixture
async def killed(tmp_path: Path) -> AsyncIterator[Killed]:
    async with home_of_another(tmp_path / "home") as home:
        home.kill_server()
        yield home


@contextlib.asynccontextmanager
async def home_of_another(path: Path) -> AsyncIterator[Killed]:
    """Start the network of a home in a process of its own, and remove all that is left at the end."""
    home_id = secrets.token_hex(3)
    words = [sys.executable, "-m", "support.home_to_kill", home_id, str(path)]
    server = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PYTHONPATH}
    )
    try:
        assert server.stdout is not None
        line = await asyncio.to_thread(server.stdout.readline)
        home = Killed(id=home_id, path=path, server=server, range=IPv4Network(line.strip()))
        open_cgroup(home.group).create(memory_bytes=64 * MIB, processes=8)
        place = path / "mounts" / "all"
        place.mkdir(parents=True)
        mounts.ensure_shared(place)
        yield home
    finally:
        with server:
            server.kill()
        for place in reversed(mounts.below(path)):
            mounts.unmount(place)
        await open_cgroup(cgroup_parent(home_id)).remove(timeout_s=10)
        await asyncio.to_thread(home_network.teardown, home_id, slots_dir=path / "slots")


async def another_starts(tmp_path: Path) -> None:
    async with network_home(tmp_path / f"other-{secrets.token_hex(2)}"):
        pass


@contextlib.contextmanager
def running(words: list[str], *, program: str | None = None) -> Iterator[int]:
    process = subprocess.Popen(words, executable=program)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


async def test_nothing_stays_of_a_home_that_was_deleted(killed: Killed, tmp_path: Path) -> None:
    had = await asyncio.to_thread(killed.left)
    killed.delete()
    await another_starts(tmp_path)

    assert had >= {"range", "record", "fence", "namespaces", "links", "cgroups", "mounts"}
    assert await asyncio.to_thread(killed.left) == set()


async def test_a_home_whose_server_was_killed_keeps_all_it_has(killed: Killed, tmp_path: Path) -> None:
    had = await asyncio.to_thread(killed.left)
    await another_starts(tmp_path)

    assert await asyncio.to_thread(killed.left) == had


async def test_a_home_that_cannot_be_looked_at_keeps_all_it_has(killed: Killed, tmp_path: Path) -> None:
    had = await asyncio.to_thread(killed.left)
    (killed.path / "home.json").write_text("{")
    await another_starts(tmp_path)

    assert await asyncio.to_thread(killed.left) == had


async def test_a_deleted_home_keeps_all_it_has_while_a_sandbox_runs(killed: Killed, tmp_path: Path) -> None:
    """Its disk may only not be mounted just now."""
    with running(["sleep", "600"]) as pid:
        for directory in open_cgroup(killed.group).directories():
            # Not every hierarchy has it.
            if directory.is_dir():
                (directory / "cgroup.procs").write_text(str(pid))
        had = await asyncio.to_thread(killed.left)
        killed.delete()
        await another_starts(tmp_path)
        during = await asyncio.to_thread(killed.left)
    await another_starts(tmp_path)

    assert during == had
    assert await asyncio.to_thread(killed.left) == set()


async def test_a_deleted_home_keeps_all_it_has_while_its_edge_runs(killed: Killed, tmp_path: Path) -> None:
    words = ["/bin/atoll-edge", "-c", "import time; time.sleep(600)", "--range", str(killed.range)]
    with running(words, program=sys.executable):
        had = await asyncio.to_thread(killed.left)
        killed.delete()
        await another_starts(tmp_path)
        during = await asyncio.to_thread(killed.left)
    await another_starts(tmp_path)

    assert during == had
    assert await asyncio.to_thread(killed.left) == set()


async def test_a_deleted_home_keeps_all_it_has_while_its_server_runs(tmp_path: Path) -> None:
    async with home_of_another(tmp_path / "home") as home:
        had = await asyncio.to_thread(home.left)
        home.delete()
        await another_starts(tmp_path)
        during = await asyncio.to_thread(home.left)
        home.kill_server()
        await another_starts(tmp_path)

        assert during == had
        assert await asyncio.to_thread(home.left) == set()


async def test_the_next_home_in_the_same_directory_keeps_what_is_mounted_there(
    killed: Killed, tmp_path: Path
) -> None:
    killed.delete()
    async with network_home(killed.path) as successor:
        left = await asyncio.to_thread(killed.left)

        assert left == {"mounts"}
        assert RECORDS.read(successor.id) == successor.record


async def test_what_is_mounted_elsewhere_stays_where_a_link_stands_in_a_deleted_homes_place(
    killed: Killed, tmp_path: Path
) -> None:
    """Its directory may have been in one where everybody may make links, to any place."""
    elsewhere = tmp_path / "elsewhere" / "disk"
    elsewhere.mkdir(parents=True)
    mounts.ensure_shared(elsewhere)
    try:
        mounts.unmount(killed.path / "mounts" / "all")
        killed.delete()
        killed.path.mkdir()
        (killed.path / "mounts").symlink_to(elsewhere.parent)
        await another_starts(tmp_path)

        assert mounts.is_mounted(elsewhere)
        assert await asyncio.to_thread(killed.left) == set()
    finally:
        mounts.unmount(elsewhere)


async def test_a_home_of_a_version_without_records_keeps_its_range(killed: Killed, tmp_path: Path) -> None:
    RECORDS.remove(killed.id)
    killed.delete()
    await another_starts(tmp_path)

    assert await asyncio.to_thread(killed.left) >= {"range", "fence", "namespaces", "links"}


@pytest.mark.parametrize(
    "moment",
    [
        "nothing is gone",
        "the slots are gone",
        "the mounts are gone",
        "the range is released",
        "the fence is gone",
    ],
)
async def test_who_is_killed_giving_a_home_up_leaves_the_rest_to_the_next(
    killed: Killed, tmp_path: Path, moment: str
) -> None:
    killed.delete()
    words = [sys.executable, "-c", CUT_OFF, moment]
    done = await asyncio.to_thread(subprocess.run, words, check=False, timeout=60)
    between = await asyncio.to_thread(killed.left)
    await another_starts(tmp_path)

    assert done.returncode == -signal.SIGKILL
    assert between or moment == "the fence is gone"
    assert await asyncio.to_thread(killed.left) == set()


async def test_a_start_finds_a_range_where_deleted_homes_had_all(tmp_path: Path) -> None:
    # No other home of this machine claims there.
    supernet = IPv4Network("10.202.77.0/28")
    homes = [(secrets.token_hex(3), tmp_path / str(number)) for number in range(3)]

    def prepare(home_id: str, path: Path) -> home_network.Prepared:
        record = home_record(home_id, path)
        return home_network.prepare(home_id, record=record, supernet=supernet, prefix_length=29)

    try:
        for home_id, path in homes[:2]:
            await asyncio.to_thread(prepare, home_id, path)
        with pytest.raises(ResourceExhaustedError) as caught:
            await asyncio.to_thread(prepare, *homes[2])
        # This process is their server, until their records say otherwise.
        for home_id, path in homes[:2]:
            forget_server(home_id)
            shutil.rmtree(path)
        prepared = await asyncio.to_thread(prepare, *homes[2])
    finally:
        for home_id, path in homes:
            await asyncio.to_thread(home_network.teardown, home_id, slots_dir=path / "slots")

    assert prepared.addresses.v4.subnet_of(supernet)
    for home_id, path in homes[:2]:
        assert f"the range of home {home_id} at {path}" in str(caught.value)


def forget_server(home_id: str) -> None:
    """Have a home's record name a process that is gone."""
    file = home_network.RUN_DIR / "homes" / f"{home_id}.json"
    content = json.loads(file.read_text())
    content["server"]["start_time"] -= 1
    file.write_text(json.dumps(content))


async def test_whoever_gives_a_home_up_twice_does_nothing(killed: Killed) -> None:
    killed.delete()
    for _ in range(2):
        await asyncio.to_thread(dead_homes.give_up, killed.id, run_dir=home_network.RUN_DIR)

    assert await asyncio.to_thread(killed.left) == set()
