"""Who goes first over real gVisor, when one machine is made at a time and the queue is full."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from support.home import LiveHome, fresh_home
from support.parts import api

from atoll import Pool, Sandbox, Snapshot, Team

# Dozens of starts, one after the other: for who has time. tests/unit/control/test_admission.py has the rules.
pytestmark = pytest.mark.heavy

QUEUE, WAITING = 12, 12
SETTINGS = f"""
[sandboxes]
concurrent_starts = 1
queued_starts = {QUEUE}
[pool]
templates = "minimal"
least = {WAITING}
refills_at_once = 1
look_every = 0.5
"""
# More than the queue takes, so that it is full for as long as there is something to do.
WORKERS, CREATES = 2 * QUEUE, 3 * QUEUE
# One step is under way, another begins while a request is on its way; on a busy host some more. Whoever waits
# behind the queue sees all of it go by.
FEW = QUEUE // 2


@pytest.fixture(scope="module")
def own() -> Iterator[LiveHome]:
    with fresh_home(SETTINGS, pool=True) as home:
        yield home


@pytest.fixture(scope="module")
def options(own: LiveHome) -> dict[str, Any]:
    return own.options


@pytest.fixture(scope="module")
def snapshot(options: dict[str, Any]) -> Iterator[str]:
    """What is created from it takes a turn; nothing of it waits in a pool."""
    with Sandbox.create("minimal", timeout=300, **options) as origin:
        taken = origin.snapshot().id
    yield taken
    Snapshot.delete(taken, **options)


def happened(own: LiveHome, after: int = 0) -> list[tuple[str, str]]:
    """List what the server said of sandboxes, in its order: what, and of whom."""
    lines = (own.path / "logs" / "server.log").read_text().splitlines()[after:]
    told = (json.loads(line) for line in lines)
    return [(one["event"], one.get("sandbox_id", "")) for one in told]


def log_lines(own: LiveHome) -> int:
    return len((own.path / "logs" / "server.log").read_text().splitlines())


class Crowd:
    """Clients of one team that create and create, also when they are refused."""

    def __init__(self, options: dict[str, Any], snapshot: str) -> None:
        self._options = options
        self._wish = {"template": snapshot, "timeout_seconds": 600}
        self._left = threading.Semaphore(CREATES)
        self.made: list[str] = []
        self.problems: list[str] = []
        # Somebody was refused.
        self.full = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(WORKERS)]

    def _work(self) -> None:
        with api(self._options) as client:
            while self._left.acquire(blocking=False):
                self._create(client)

    def _create(self, client: httpx.Client) -> None:
        pause = threading.Event()
        while True:
            answer = client.post("/v1/sandboxes", json=self._wish)
            if answer.status_code == httpx.codes.CREATED:
                self.made.append(answer.json()["id"])
                return
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                self.problems.append(answer.text)
                return
            self.full.set()
            pause.wait(0.05)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Have them create, from the first refusal on; all of it is done and removed afterwards."""
        for thread in self._threads:
            thread.start()
        try:
            assert self.full.wait(60), "the queue was never full"
            yield
        finally:
            for thread in self._threads:
                thread.join(timeout=120)
            with api(self._options) as client:
                for one in self.made:
                    client.delete(f"/v1/sandboxes/{one}").raise_for_status()
        assert not self.problems
        # Whoever is refused has his turn in the end.
        assert len(self.made) == CREATES


def test_a_resume_that_traffic_waits_for_goes_before_a_queue_that_is_full(
    own: LiveHome, options: dict[str, Any], snapshot: str
) -> None:
    with Sandbox.create("minimal", timeout=600, auto_resume=True, **options) as sleeper:
        sleeper.files.write("/dev/shm/held", "held")
        sleeper.pause()
        crowd = Crowd(options, snapshot)
        with crowd.working():
            before = log_lines(own)
            # A request for the sandbox, not about it.
            assert sleeper.files.read("/dev/shm/held") == "held"
            told = happened(own, before)

        passed = [event for event, _ in told[: told.index(("sandbox resumed", sleeper.id))]]
        assert passed.count("sandbox started") <= FEW


def test_a_team_that_creates_and_creates_keeps_no_other_from_it(
    own: LiveHome, options: dict[str, Any], snapshot: str
) -> None:
    team = Team.create("others", **options)
    theirs = {**options, "api_key": Team.create_key("test", team=team.id, **options).key}
    crowd = Crowd(options, snapshot)
    with crowd.working():
        before = log_lines(own)
        # No machine of that size waits.
        with Sandbox.create("minimal", timeout=300, memory_mb=640, **theirs) as sandbox:
            told = happened(own, before)
            assert sandbox.commands.run("echo up").stdout == "up\n"

    ours = [event for event, whose in told if whose != sandbox.id]
    assert ours.count("sandbox started") <= FEW
    Team.delete(team.id, force=True, **options)


def test_pauses_and_creates_do_not_wait_until_the_pool_is_filled(
    own: LiveHome, options: dict[str, Any], snapshot: str
) -> None:
    def waiting() -> set[str]:
        return {
            one for pool in Pool.list(**options) if pool.limits.memory_bytes == 512 << 20 for one in pool.ids
        }

    def filled() -> None:
        pause = threading.Event()
        for _ in range(600):
            if len(waiting()) >= WAITING:
                return
            pause.wait(0.1)
        pytest.fail(f"only {len(waiting())} wait")

    filled()
    claimed = [Sandbox.create("minimal", timeout=300, **options) for _ in range(WAITING)]
    try:
        claimed[0].pause()
        with Sandbox.create(snapshot, timeout=300, **options) as made:
            refilled = waiting()
            assert made.commands.run("echo up").stdout == "up\n"

        assert len(refilled) <= FEW
        # Nor do refills wait for ever.
        filled()
    finally:
        for one in claimed:
            one.kill()
            one.close()
