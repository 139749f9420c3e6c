"""
The machine restarts: nothing of a home is left but its files, and the paused ones come back with their bytes.

A restart cannot be had here, so all that it takes away is taken away: every process at once, the network,
control groups, mounts, what is in /run, and the boot id that running sandboxes were written down with.
"""

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from e2b import Sandbox
from support import cgroups
from support.deadly_home import DeadlyHome
from support.home import LiveHome, fresh_home
from support.parts import api, kill, run_inside

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


def restart_machine(home: LiveHome) -> None:
    tag = home.id
    end_processes(home)
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        if str(home.path) in line.split()[1]:
            run("umount", "-l", line.split()[1])
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
