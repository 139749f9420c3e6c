"""What a home leaves that is cut off while it is taken down, or before, is removed with the next home."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.network import TestHome, acquire, ip, network_home

from atoll.server.host.netlink import Netlink
from atoll.server.network import home_network, host_settings, ranges

# A process of its own takes a home down, and is killed between two steps of that.
CUT_OFF = """
import os, signal, sys
from pathlib import Path
from atoll.server.network import fence, home_network, making, ranges
from atoll.server.network.host_settings import HostSettings

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

owner, name = {
    "the range is released": (fence, "take_down"),
    "the fence is gone": (making, "unprepare"),
    "the records are gone": (HostSettings, "release"),
}[sys.argv[3]]
setattr(owner, name, die)
home_network.teardown(sys.argv[1], slots_dir=Path(sys.argv[2]))
"""


def nft(command: str) -> str:
    return subprocess.run(["nft", command], check=True, capture_output=True, text=True).stdout


def left_of(home: TestHome) -> set[str]:
    """Say what of a home is on this machine."""
    settings = home_network.RUN_DIR / host_settings.FILE_NAME
    records = json.loads(settings.read_text()) if settings.exists() else {}
    with Netlink() as netlink:
        claimed = ranges.is_claimed(home.id, netlink)
    found = {
        "fence": home.names.table in nft("list tables"),
        "settings": any(home.id in record["holders"] for record in records.values()),
        "range": claimed,
    }
    return {what for what, there in found.items() if there}


@pytest.fixture
async def ended(tmp_path: Path) -> AsyncIterator[TestHome]:
    """A home whose server has ended, or was killed; the fence stands."""
    async with network_home(tmp_path / "ended") as home:
        async with home.pool():
            pass
        yield home


def cut_off(home: TestHome, moment: str) -> None:
    words = [sys.executable, "-c", CUT_OFF, home.id, str(home.slots_dir), moment]
    assert subprocess.run(words, check=False, timeout=60).returncode == -signal.SIGKILL


MOMENTS = {
    "the range is released": {"fence", "settings"},
    "the fence is gone": {"settings"},
    "the records are gone": {"settings"},
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("next_is", ["started", "taken down"])
async def test_what_a_home_leaves_that_is_killed_going_down_goes_with_any_other(
    ended: TestHome, tmp_path: Path, moment: str, next_is: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if next_is == "taken down":
            other = await stack.enter_async_context(network_home(tmp_path / "other"))
        had = await asyncio.to_thread(left_of, ended)
        await asyncio.to_thread(cut_off, ended, moment)
        left = await asyncio.to_thread(left_of, ended)
        if next_is == "taken down":
            await other.teardown()
        else:
            await stack.enter_async_context(network_home(tmp_path / "other"))
        then = await asyncio.to_thread(left_of, ended)

    assert {"range", "fence"} <= had
    # Where the host's settings suit from the start nobody holds them.
    assert left == MOMENTS[moment] & had
    assert then == set()


async def test_a_home_that_was_cut_off_going_down_starts_again(ended: TestHome) -> None:
    await asyncio.to_thread(cut_off, ended, "the range is released")
    again = await asyncio.to_thread(
        home_network.prepare, ended.id, record=ended.record, wanted=ended.addresses.v4
    )

    async with ended.pool():
        assert again.addresses == ended.addresses
        assert {"range", "fence"} <= await asyncio.to_thread(left_of, ended)


async def test_a_home_whose_server_was_killed_keeps_all_it_has(ended: TestHome, tmp_path: Path) -> None:
    had = await asyncio.to_thread(left_of, ended)
    async with network_home(tmp_path / "other"):
        pass

    assert {"range", "fence"} <= had
    assert await asyncio.to_thread(left_of, ended) == had


async def test_the_fence_of_a_home_with_slots_stays_when_somebody_flushed_its_range(
    ended: TestHome, tmp_path: Path
) -> None:
    async with ended.pool() as pool:
        await acquire(pool)
        ip(f"route del unreachable {ended.addresses.v4} metric {ended.names.route_priority}")
        ip(f"-6 route del unreachable {ended.addresses.v6} metric {ended.names.route_priority}")
        had = await asyncio.to_thread(left_of, ended)
        async with network_home(tmp_path / "other"):
            pass

        assert had >= {"fence"}
        assert "range" not in had
        assert await asyncio.to_thread(left_of, ended) == had


async def test_tables_of_others_stay(ended: TestHome, tmp_path: Path) -> None:
    others = ("inet atoll_notours", "ip atoll_abcdef", f"inet my_atoll_{ended.id}")
    for table in others:
        await asyncio.to_thread(nft, f"add table {table}")
    try:
        async with network_home(tmp_path / "other"):
            tables = await asyncio.to_thread(nft, "list tables")
    finally:
        for table in others:
            await asyncio.to_thread(nft, f"delete table {table}")

    assert set(others) <= {line.removeprefix("table ") for line in tables.splitlines()}


async def test_a_fence_is_not_put_up_again_for_a_home_that_lets_go_meanwhile(
    ended: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server looks at the claim; the home is taken down; then the server looks at the fence."""
    looked, taken_down = threading.Event(), threading.Event()
    real = ranges.is_claimed

    def slow(home_id: str, netlink: Netlink) -> bool:
        claimed = real(home_id, netlink)
        if home_id == ended.id and not looked.is_set():
            looked.set()
            # The other one waits for us, or else is done by then.
            taken_down.wait(timeout=2)
        return claimed

    def take_down() -> None:
        home_network.teardown(ended.id, slots_dir=ended.slots_dir)
        taken_down.set()

    async with ended.pool(ready=0):
        monkeypatch.setattr(ranges, "is_claimed", slow)
        await asyncio.to_thread(nft, f"delete table inet {ended.names.table}")
        assert await asyncio.to_thread(looked.wait, 10)
        await asyncio.to_thread(take_down)
    assert await asyncio.to_thread(left_of, ended) == set()
