"""
The server is killed at random moments while clients create and kill sandboxes.

Whatever was acknowledged holds after the restart, and nothing that belongs to no row is left.
The seed is printed; `ATOLL_CHAOS_SEED` repeats a run.
"""

import os
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox
from support.home import LiveHome, fresh_home

# Rounds of killing; the many are for who has time.
FEW, MANY = 2, 10


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("ATOLL_CHAOS_SEED") or random.randrange(1 << 32))


def kernel_objects(home: LiveHome, home_id: str | None = None) -> dict[str, list[str]]:
    """List what of this home is in the kernel, and its sandboxes' directories."""
    tag = home_id or home.id
    return {
        "namespaces": [p.name for p in Path("/run/netns").glob(f"atoll-{tag}-*")]
        if Path("/run/netns").is_dir()
        else [],
        "links": [p.name for p in Path("/sys/class/net").glob(f"at{tag}-*")],
        "cgroups": [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/atoll-{tag}/i*")],
        "directories": [p.name for p in (home.path / "sandboxes").glob("i*")],
        "processes": home.sandbox_processes(),
    }


def events(home: LiveHome) -> dict[str, list[str]]:
    """List what was told of each sandbox, in its order."""
    options = home.client_options
    lives: dict[str, list[str]] = defaultdict(list)
    with httpx.Client(base_url=options["api_url"], headers={"X-API-Key": options["api_key"]}) as api:
        offset = 0
        while page := api.get(f"/events/sandboxes?orderAsc=true&limit=100&offset={offset}").json():
            offset += len(page)
            for event in page:
                lives[event["sandboxId"]].append(event["type"].rpartition(".")[2])
    return lives


class Crowd:
    """Three clients that create and kill sandboxes, and remember what the server acknowledged."""

    def __init__(self, seed: int, options: dict[str, Any]) -> None:
        self.alive: set[str] = set()
        self.killed: set[str] = set()
        self._options = options
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(random.Random(seed + number),)) for number in range(3)
        ]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=120)
        assert not any(thread.is_alive() for thread in self._threads)

    def _work(self, chance: random.Random) -> None:
        while not self._stop.is_set():
            try:
                if chance.random() < 0.6:
                    self._create()
                else:
                    self._kill()
            except Exception:
                # The server is away: what was asked may or may not have happened.
                time.sleep(0.1)

    def _create(self) -> None:
        sandbox = Sandbox.create("minimal", timeout=900, request_timeout=60, **self._options)
        with self._lock:
            self.alive.add(sandbox.sandbox_id)

    def _kill(self) -> None:
        with self._lock:
            victim = self.alive.pop() if self.alive else None
        if victim:
            Sandbox.kill(victim, request_timeout=60, **self._options)
            with self._lock:
                self.killed.add(victim)


@pytest.mark.parametrize("rounds", [FEW, pytest.param(MANY, marks=pytest.mark.heavy)])
def test_nothing_acknowledged_is_lost_and_nothing_leaks(
    seed: int, record_property: Callable[[str, object], None], rounds: int
) -> None:
    record_property("seed", seed)
    sys.stdout.write(f"ATOLL_CHAOS_SEED={seed}\n")
    chance = random.Random(seed)
    with fresh_home() as home:
        with Crowd(seed, home.client_options) as crowd:
            for _ in range(rounds):
                time.sleep(chance.uniform(0.3, 2.5))
                os.kill(home.server_pid(), signal.SIGKILL)
                home.start()

        listed = home.settled_running()
        assert crowd.alive <= listed, "an acknowledged sandbox is lost"
        assert not (crowd.killed & listed), "an acknowledged kill is undone"
        for sandbox_id in sorted(crowd.alive):
            answer = Sandbox.connect(sandbox_id, **home.client_options).commands.run("echo here")
            assert answer.stdout == "here\n"

        # What was created without an answer is known to the server; its client may list and kill it.
        for sandbox_id in listed:
            Sandbox.kill(sandbox_id, **home.client_options)
        assert home.settled_running() == set()
        lives = events(home)
        # Whatever was told once: that it began, and that it ended.
        assert crowd.alive | crowd.killed | listed <= set(lives)
        assert {tuple(life) for life in lives.values()} == {("created", "killed")}
        left = kernel_objects(home)
        # Ready slots are kept; that they go is checked below.
        left["namespaces"] = left["links"] = []
        assert left == {name: [] for name in left}
        home_id = home.id

    assert kernel_objects(home, home_id) == {name: [] for name in left}


@pytest.fixture(scope="module")
def hit() -> Iterator[LiveHome]:
    """A home of which parts are killed, and all of them are there again after each test."""
    with fresh_home() as home:
        yield home


def test_the_edge_is_killed_and_comes_back(hit: LiveHome) -> None:
    sandbox: Any = Sandbox.create("minimal", timeout=300, **hit.client_options)
    os.kill(hit.edge_pid(), signal.SIGKILL)
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        try:
            if sandbox.commands.run("echo back").stdout == "back\n":
                break
        except (httpx.HTTPError, Exception):
            time.sleep(0.1)
    else:
        pytest.fail("the edge did not come back within 20 s")


def test_a_command_streams_on_while_the_server_is_away(hit: LiveHome) -> None:
    sandbox = Sandbox.create("minimal", timeout=300, **hit.client_options)
    lines: list[str] = []
    handle = sandbox.commands.run(
        "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done", background=True, timeout=60
    )
    reader = threading.Thread(target=lambda: handle.wait(on_stdout=lines.append))
    reader.start()
    os.kill(hit.server_pid(), signal.SIGKILL)
    reader.join(timeout=30)
    hit.start()

    assert "".join(lines) == "1\n2\n3\n4\n5\n6\n7\n8\n"
    assert sandbox.commands.run("echo after").stdout == "after\n"
