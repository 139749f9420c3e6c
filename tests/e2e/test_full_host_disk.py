"""The host's disk is full, since a sandbox wrote more than there is: whoever made it so can be ended."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from e2b import CommandExitException, RateLimitException, Sandbox
from support.home import NO_POOL, LiveHome, free_address

DISK_BYTES = 700 << 20
# As if every start found just enough room: the disk is to be full in earnest. And a machine that waits in
# the pool needs no more of it: whether one came before the disk was full would decide how a create ends.
SETTINGS = f"[gvisor]\nleast_free_disk_bytes = 0\n{NO_POOL}"


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    """Give a file system of its own to a home."""
    scratch = Path(tempfile.mkdtemp(prefix="atoll-test-"))
    image, mount = scratch / "image", scratch / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True, timeout=60)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True, timeout=60)
        shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def home(small_disk: Path) -> Iterator[LiveHome]:
    path = small_disk / "home"
    path.mkdir(mode=0o700)
    (path / "settings.toml").write_text(SETTINGS)
    made = LiveHome(path=path, listen=free_address())
    try:
        made.start()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def options(home: LiveHome) -> dict[str, Any]:
    return home.client_options


def fill(sandbox: Sandbox, disk: Path) -> None:
    """Write until there is no room, and keep at it: what others free is taken at once."""
    with pytest.raises(CommandExitException, match="No space left"):
        sandbox.commands.run("dd if=/dev/zero of=/tmp/fill bs=1M", timeout=120)
    sandbox.commands.run(
        "while :; do dd if=/dev/zero of=/tmp/fill bs=4k oflag=append conv=notrunc 2>&-; sleep 0.1; done",
        background=True,
        timeout=0,
    )
    assert shutil.disk_usage(disk).free < 1 << 20


def has_room(disk: Path) -> bool:
    return shutil.disk_usage(disk).free > 100 << 20


def test_who_filled_it_can_be_killed_and_others_go_on(options: dict[str, Any], small_disk: Path) -> None:
    neighbour = Sandbox.create("minimal", timeout=600, **options)
    greedy = Sandbox.create("minimal", timeout=600, **options)
    neighbour.files.write("/tmp/mine", "mine")
    fill(greedy, small_disk)

    assert neighbour.commands.run("cat /tmp/mine").stdout == "mine"
    with pytest.raises(RateLimitException, match="disk is full"):
        Sandbox.create("minimal", timeout=600, **options)
    assert greedy.kill()

    assert not greedy.is_running()
    with Sandbox.create("minimal", timeout=600, **options) as after:
        assert after.commands.run("echo room").stdout == "room\n"
    assert neighbour.commands.run("cat /tmp/mine").stdout == "mine"
    assert neighbour.kill()


def test_a_deadline_ends_who_filled_it(options: dict[str, Any], small_disk: Path) -> None:
    greedy = Sandbox.create("minimal", timeout=600, **options)
    fill(greedy, small_disk)

    greedy.set_timeout(1)

    limit = time.monotonic() + 30
    # Its route goes first, what it wrote last.
    while (greedy.is_running() or not has_room(small_disk)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not greedy.is_running()
    assert has_room(small_disk)


# The last: nothing of the home runs afterwards.
def test_down_ends_everything_and_says_nothing_of_the_log(
    home: LiveHome, options: dict[str, Any], small_disk: Path
) -> None:
    greedy = Sandbox.create("minimal", timeout=600, **options)
    fill(greedy, small_disk)
    # A server that ends gives back what room its files had, and others take it.
    server = psutil.Process(home.server_pid())
    server.terminate()
    server.wait(60)
    time.sleep(1)

    done = home.atoll("down", "--home", str(home.path))

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert home.sandbox_processes() == []
