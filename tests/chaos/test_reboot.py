"""
The machine restarts: nothing of a home is left but its files, and the paused ones come back with their bytes.

A restart cannot be had here, so all that it takes away is taken away: every process at once, the network,
control groups, mounts, what is in /run, and the boot id that running sandboxes were written down with.
"""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from e2b import Sandbox
from support import cgroups
from support.deadly_home import DeadlyHome
from support.home import LiveHome, fresh_home
from support.parts import api, kill, run_inside

from atoll import Sandbox as Own
from atoll import SandboxInfo, Volume

# 76 s: for who has time.
pytestmark = pytest.mark.heavy

WRITE = "head -c 3000000 /dev/urandom | tee /dev/shm/kept /root/kept | sha256sum"
READ = "cat /dev/shm/kept | sha256sum; cat /root/kept | sha256sum"


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def end_processes(home: LiveHome) -> None:
    # The server first: it would start another edge.
    kill(home.server_pid())
    limit = time.monotonic() + 30
    while found := [one for word in ("atoll", "runsc") for one in home.processes(word) if is_live(one)]:
        assert time.monotonic() < limit, found
        for process in found:
            kill(process.pid)
        time.sleep(0.05)


def is_live(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def mounted(home: LiveHome) -> list[str]:
    """List the places where something of the home is mounted, in the order of their mounts."""
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [place for place in places if str(home.path) in place]


def restart_machine(home: LiveHome) -> None:
    tag = home.id
    end_processes(home)
    # One takes its copies along.
    while left := mounted(home):
        run("umount", "-l", left[-1])
    for path in Path("/sys/class/net").glob(f"at{tag}-*"):
        run("ip", "link", "del", path.name)
    for path in Path("/run/netns").glob(f"atoll-{tag}-*"):
        run("ip", "netns", "del", path.name)
    run("nft", "delete", "table", "inet", f"atoll_{tag}")
    home_range = json.loads((home.path / "home.json").read_text())["range"]
    run("ip", "route", "del", "unreachable", home_range)
    for group in reversed(cgroups.of_home(tag)):
        for inner in sorted((one for one in group.rglob("*") if one.is_dir()), reverse=True):
            inner.rmdir()
        group.rmdir()
    for path in (home.path / "run").iterdir():
        path.unlink()
    for path in (home.path / "sandboxes").glob("*/machine.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "of the time before"}))


def until(what: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.1)


def back(sandbox: Own) -> SandboxInfo:
    """Wait until it has come back from its fall."""
    until(lambda: (info := sandbox.info()).fall is not None and info.fall.back_at is not None)
    return sandbox.info()


def held(sandbox: Own, text: str) -> None:
    for place in ("/dev/shm/held", "/home/user/held", "/data/held"):
        sandbox.files.write(place, text)


def holds(sandbox: Own) -> list[str]:
    """Read what there is in memory, on its own disk and on its volume."""
    names = "/dev/shm/held /home/user/held /data/held"
    script = f"for name in {names}; do cat $name 2>/dev/null || echo -; echo; done"
    return sandbox.commands.run(script).stdout.split()


def test_persistent_ones_come_back_from_what_was_kept_of_them() -> None:
    with fresh_home() as home:
        exports = home.exports
        options = {"api_url": exports["ATOLL_API_URL"], "api_key": exports["ATOLL_API_KEY"]}
        with ExitStack() as stack:

            def create(**wishes: Any) -> Own:
                name = f"data-{len(made)}"
                volume = Volume.create(name, **options)
                made.append(Own.create("minimal", volumes={"/data": volume.name}, **wishes, **options))
                stack.callback(made[-1].close)
                held(made[-1], "before")
                return made[-1]

            made: list[Own] = []
            memory, files = create(persistent=True), create(persistent=True)
            bare, asleep = create(persistent=True), create(persistent=True)
            wanted = create(timeout=1800, restart="from_snapshot")
            hopeless = create(timeout=1800, restart="from_snapshot")
            for one in (memory, wanted):
                one.snapshot()
            files.snapshot(memory=False)
            for one in made:
                held(one, "later")
            asleep.pause()

            restart_machine(home)
            home.start()

            # Since its last snapshot only what is on a volume is left.
            assert back(memory).status == "running"
            assert holds(memory) == ["before", "before", "later"]
            back(files)
            assert holds(files) == ["-", "before", "later"]
            back(bare)
            assert holds(bare) == ["-", "-", "later"]
            back(wanted)
            assert holds(wanted) == ["before", "before", "later"]
            assert (lost := hopeless.info()).status == "failed"
            assert lost.end_reason == "lost"
            # What was answered as paused had all of it on the disk.
            assert asleep.info().status == "paused"
            asleep.resume()
            assert holds(asleep) == ["later"] * 3
            assert [one.info().persistent for one in (memory, files, bare, asleep)] == [True] * 4


def test_down_right_after_a_restart_of_the_machine_takes_all_of_it_down() -> None:
    with fresh_home() as home:
        exports = home.exports
        options = {"api_url": exports["ATOLL_API_URL"], "api_key": exports["ATOLL_API_KEY"]}
        volume = Volume.create("data", **options)
        wishes: dict[str, Any] = {"volumes": {"/data": volume.name}, **options}
        kept, bare = (Own.create("minimal", persistent=True, **wishes) for _ in range(2))
        fallen, asleep = (
            Own.create("minimal", timeout=1800, restart="from_snapshot", **wishes) for _ in range(2)
        )
        for one in (kept, fallen, asleep):
            held(one, "before")
            one.snapshot()
        asleep.pause()

        restart_machine(home)
        home.down()

        assert mounted(home) == []
        home.start()
        for one in (kept, bare):
            back(one)
        assert holds(kept) == ["before"] * 3
        assert holds(bare) == ["-", "-", "before"]
        asleep.resume()
        assert holds(asleep) == ["before"] * 3
        for one in (kept, bare, fallen, asleep):
            one.close()


def test_paused_ones_and_snapshots_survive_a_restart_of_the_machine() -> None:
    with fresh_home() as home:
        deadly = DeadlyHome(home)
        options = home.client_options
        paused = Sandbox.create("minimal", timeout=1800, **options).sandbox_id
        content = run_inside(options, paused, WRITE).split()[0]
        with api(options) as client:
            snapshot = client.post(f"/v1/sandboxes/{paused}/snapshots").raise_for_status().json()["id"]
            client.post(f"/v1/sandboxes/{paused}/pause").raise_for_status()

            restart_machine(home)
            home.start()

            lost = client.get(f"/v1/sandboxes/{deadly.kept.sandbox_id}").json()
            assert lost["end_reason"] == "lost"
            deadly.snapshots = {snapshot}
            wake = {"timeout_seconds": 900}
            client.post(f"/v1/sandboxes/{paused}/resume", json=wake).raise_for_status()
            made = client.post("/v1/sandboxes", json={"template": snapshot, **wake}).raise_for_status()
            deadly.alive, deadly.sleeping = {paused, made.json()["id"]}, set()
            for sandbox_id in deadly.alive:
                read = run_inside(options, sandbox_id, READ).splitlines()
                assert [line.split()[0] for line in read] == [content, content]
            deadly.settle()
