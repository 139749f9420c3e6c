"""
The disk of a home gets full in every verb, over real gVisor: who asks is told so, what runs keeps its memory,
a kill works, and when there is room again so does everything else, with nothing left of what failed.

What a sandbox inside makes of a full disk, and who filled it: tests/e2e/test_full_host_disk.py.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.deadly_home import DeadlyHome
from support.disks import Filler, mounted
from support.home import LiveHome, fresh_home
from support.parts import api, run_inside

from atoll import Pool

# A minute, and a disk of its own.
pytestmark = pytest.mark.heavy

MIB = 1 << 20
DISK_BYTES = 640 * MIB
# As if every start, pause and pack found just enough room: the disk is to be full in earnest.
SETTINGS = """
[gvisor]
least_free_disk_bytes = 0
[storage]
reserve_bytes = 0
pack_after = "5s"
pack_every = "1s"
raw_bytes = 0
"""
POOL = """
[pool]
templates = "minimal"
least = 2
most = 2
memory_bytes = 500000000
least_free_bytes = 0
again = "1s"
look_every = "1s"
"""
FORK = {"count": 3, "timeout_seconds": 1800}
# Content that no two sandboxes share, in memory and on the disk, and its checksum.
WRITTEN = 24
WRITE = f"head -c {WRITTEN}M /dev/urandom | tee /dev/shm/kept /root/kept | sha256sum"
READ = "cat /dev/shm/kept | sha256sum; cat /root/kept | sha256sum"


@pytest.fixture
def disk() -> Iterator[Path]:
    with (
        tempfile.TemporaryDirectory(prefix="atoll-test-") as scratch,
        mounted(Path(scratch) / "disk", DISK_BYTES) as made,
    ):
        yield made


class Crowded:
    """A home on a disk that a test fills."""

    def __init__(self, home: LiveHome, disk: Path, client: httpx.Client) -> None:
        self.home = home
        self.options = home.client_options
        self.filler = Filler(disk)
        self._client = client

    def post(self, path: str, body: object = None) -> httpx.Response:
        return self._client.post(path, json=body)

    def create(self) -> str:
        wish = {"template": "minimal", "timeout_seconds": 1800, "auto_resume": True}
        answer = self.post("/v1/sandboxes", wish)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def create_with_content(self) -> tuple[str, str]:
        made = self.create()
        return made, run_inside(self.options, made, WRITE).split()[0]

    def status(self, sandbox_id: str) -> str:
        return str(self._client.get(f"/v1/sandboxes/{sandbox_id}").raise_for_status().json()["status"])

    def kill(self, sandbox_id: str) -> None:
        self._client.delete(f"/v1/sandboxes/{sandbox_id}").raise_for_status()

    def delete_snapshot(self, snapshot_id: str) -> None:
        self._client.delete(f"/v1/snapshots/{snapshot_id}").raise_for_status()

    def resume(self, sandbox_id: str) -> httpx.Response:
        return self.post(f"/v1/sandboxes/{sandbox_id}/resume", {"timeout_seconds": 1800})

    def wake(self, sandbox_id: str) -> httpx.Response:
        """Ask one of a sandbox's ports, which wakes it."""
        whose = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": "8000"}
        return httpx.get(self.options["sandbox_url"], headers=whose, timeout=120)

    def assert_kept(self, sandbox_id: str, content: str) -> None:
        assert self.status(sandbox_id) == "running"
        read = [line.split()[0] for line in run_inside(self.options, sandbox_id, READ).splitlines()]
        assert read == [content, content]

    def refused(self, path: str, body: object = None) -> None:
        """Ask for something that there is no room for."""
        self.filler.fill()
        answer = self.post(path, body)
        assert_full(answer.status_code, answer.text)


def assert_full(status: int, text: str) -> None:
    assert status == 429, text
    assert "disk is full" in text, text


def until(holds: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < limit, what
        time.sleep(0.2)


@contextmanager
def crowded_home(disk: Path, settings: str, *, pool: bool = False) -> Iterator[Crowded]:
    with (
        fresh_home(settings, pool=pool, path=disk / "home") as home,
        api(home.client_options, timeout_s=120) as client,
    ):
        crowded = Crowded(home, disk, client)
        try:
            yield crowded
        finally:
            crowded.filler.remove()


@pytest.fixture
def crowded(disk: Path) -> Iterator[Crowded]:
    with crowded_home(disk, SETTINGS) as made:
        yield made


def test_every_verb_says_that_the_disk_is_full_and_works_when_there_is_room(crowded: Crowded) -> None:
    deadly = DeadlyHome(crowded.home)
    running, content = crowded.create_with_content()
    paused, slept = crowded.create_with_content()
    crowded.post(f"/v1/sandboxes/{paused}/pause").raise_for_status()
    until(lambda: packed(crowded, paused), "nothing is packed")
    doomed = [crowded.create() for _ in range(2)]
    crowded.post(f"/v1/sandboxes/{doomed[1]}/pause").raise_for_status()

    for _ in range(2):
        crowded.refused("/v1/sandboxes", {"template": "minimal", "timeout_seconds": 1800})
        for verb in ("pause", "snapshots", "fork"):
            crowded.refused(f"/v1/sandboxes/{running}/{verb}", FORK if verb == "fork" else None)
            crowded.assert_kept(running, content)
        crowded.filler.fill()
        answer = crowded.resume(paused)
        assert_full(answer.status_code, answer.text)
        assert crowded.status(paused) == "paused"
        crowded.filler.fill()
        woken = crowded.wake(paused)
        # Not 429, which is for too many requests.
        assert (woken.status_code, "disk is full" in woken.text) == (507, True), woken.text
        assert crowded.status(paused) == "paused"
    for one in doomed:
        crowded.filler.fill()
        crowded.kill(one)
        assert crowded.status(one) == "killed"
    crowded.filler.remove()

    deadly.alive.add(running)
    deadly.sleeping.add(paused)
    deadly.settle()
    crowded.assert_kept(running, content)
    crowded.resume(paused).raise_for_status()
    crowded.assert_kept(paused, slept)
    deadly.sleeping.clear()
    deadly.alive.add(paused)
    deadly.settle()
    work_with(crowded, deadly, running, content)
    until(lambda: halves(crowded.home) == [], "halves are left")


def test_a_fork_says_of_each_child_what_became_of_it(crowded: Crowded) -> None:
    deadly = DeadlyHome(crowded.home)
    parent, content = crowded.create_with_content()
    deadly.alive.add(parent)
    snapshot = crowded.post(f"/v1/sandboxes/{parent}/snapshots").raise_for_status().json()
    crowded.delete_snapshot(snapshot["id"])
    deadly.settle()
    # Room for what all children come from, and for half of a child's files.
    crowded.filler.fill(but=snapshot["size_bytes"] + WRITTEN * MIB // 2)

    answer = crowded.post(f"/v1/sandboxes/{parent}/fork", FORK)

    assert answer.status_code in {200, 201}, answer.text
    children: list[dict[str, Any]] = answer.json()
    assert len(children) == 3
    failed = [one["error"] for one in children if one["sandbox"] is None]
    sys.stdout.write(f"{len(failed)} of 3 children had no room: {failed}\n")
    assert failed
    for error in failed:
        assert "disk is full" in str(error), crowded.home.log_tail()
    crowded.assert_kept(parent, content)
    crowded.filler.remove()
    deadly.alive |= {one["sandbox"]["id"] for one in children if one["sandbox"] is not None}
    for child in deadly.alive - {deadly.kept.sandbox_id}:
        crowded.assert_kept(child, content)
    deadly.settle()
    work_with(crowded, deadly, parent, content)


def work_with(crowded: Crowded, deadly: DeadlyHome, sandbox_id: str, content: str) -> None:
    """Have each verb work, and nothing left of it afterwards."""
    crowded.post(f"/v1/sandboxes/{sandbox_id}/pause").raise_for_status()
    crowded.resume(sandbox_id).raise_for_status()
    crowded.assert_kept(sandbox_id, content)
    snapshot = crowded.post(f"/v1/sandboxes/{sandbox_id}/snapshots").raise_for_status().json()["id"]
    wish = {"count": 1, "timeout_seconds": 1800}
    (child,) = crowded.post(f"/v1/sandboxes/{sandbox_id}/fork", wish).raise_for_status().json()
    crowded.assert_kept(child["sandbox"]["id"], content)
    made = crowded.create()
    assert run_inside(crowded.options, made, "echo up") == "up\n"
    deadly.alive |= {made, child["sandbox"]["id"]}
    deadly.snapshots = {snapshot}
    deadly.settle()
    for one in deadly.alive - {deadly.kept.sandbox_id}:
        crowded.kill(one)
    crowded.delete_snapshot(snapshot)
    deadly.alive = {deadly.kept.sandbox_id}
    deadly.snapshots = set()
    deadly.settle()


def packed(crowded: Crowded, sandbox_id: str) -> bool:
    return all(
        (path / "runs").exists() and not list(path.glob("pages*"))
        for path in (crowded.home.path / "checkpoints").glob(f"{sandbox_id}-*")
    )


def halves(home: LiveHome) -> list[str]:
    """List what somebody began to write and did not finish."""
    found = [*(home.path / "blobs").rglob(".new-*"), *(home.path / "checkpoints").rglob(".*")]
    return sorted(str(path) for path in found)


def test_what_is_packed_on_a_full_disk_stays_as_it_is_until_there_is_room(disk: Path) -> None:
    # Long enough for the disk to be full by then, however busy the machine is.
    with crowded_home(disk, SETTINGS.replace('pack_after = "5s"', 'pack_after = "20s"')) as crowded:
        deadly = DeadlyHome(crowded.home)
        paused, content = crowded.create_with_content()
        crowded.post(f"/v1/sandboxes/{paused}/pause").raise_for_status()
        crowded.filler.fill()

        log = crowded.home.path / "logs" / "server.log"
        until(lambda: "checkpoint not packed" in log.read_text(), "a pack found room")

        assert not packed(crowded, paused)
        crowded.filler.remove()
        until(lambda: packed(crowded, paused), "nothing is packed though there is room")
        deadly.sleeping = {paused}
        deadly.settle()
        crowded.resume(paused).raise_for_status()
        crowded.assert_kept(paused, content)
        until(lambda: halves(crowded.home) == [], "halves are left")


def test_a_pool_is_filled_again_when_there_is_room(disk: Path) -> None:
    with crowded_home(disk, SETTINGS + POOL, pool=True) as crowded:
        until(lambda: len(crowded.home.waiting()) == 2, "the pool is not filled")
        crowded.filler.fill()
        # What waits needs no room to be claimed: it was told who it will be. What takes its place does.
        claimed = {crowded.create() for _ in range(2)}
        crowded.filler.fill()
        crowded.refused("/v1/sandboxes", {"template": "minimal", "timeout_seconds": 1800})
        until(lambda: "disk is full" in problem(crowded), "the pool does not say why it is empty")
        assert crowded.home.waiting() == set()

        crowded.filler.remove()

        until(lambda: len(crowded.home.waiting()) == 2 and not problem(crowded), "it is not filled again")
        assert crowded.home.settled_running() == claimed
        there = crowded.home.waiting()
        assert crowded.create() in there


def problem(crowded: Crowded) -> str:
    exports = crowded.home.exports
    pools = Pool.list(api_url=exports["ATOLL_API_URL"], api_key=exports["ATOLL_API_KEY"])
    return " ".join(pool.problem or "" for pool in pools if pool.template == "minimal").strip()
