"""
A part is killed while the pool makes a machine: that comes up at the second try, or nobody hears of it and
nothing of it is left; the pool is filled all the same.

Between guestd's coming up and the machine's waiting there are some milliseconds, and having gVisor kill it
takes thirty. So the server stands still meanwhile: what it has begun goes on without it.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from support import cgroups
from support.home import LiveHome, fresh_home
from support.leavings import named
from support.parts import Part, api, kill, kill_guestd_outside, of_runsc, run_inside, wait_for_answers

# A minute, and starts of servers.
pytestmark = pytest.mark.heavy

PARTS = (Part.SERVER, Part.EDGE, Part.HELPER, Part.SENTRY, Part.GOFER, Part.GUESTD)
# Of each part, until so many kills have met a refill; more tries than that are a bug of the aim.
MEETINGS = 2
MOST_TRIES = 10
WAITING = 2
SETTINGS = f"""
[pool]
templates = "minimal"
least = {WAITING}
most = {WAITING}
look_every = "1s"
again = "1s"
"""
WISH = {"template": "minimal", "timeout_seconds": 1800}
# A restore takes less, also on a busy machine.
SIGHT_S = 10.0


class Refills:
    """A home whose pool is emptied, and which is hit while it fills it."""

    def __init__(self, home: LiveHome, client: httpx.Client, seed: int) -> None:
        self.home = home
        self.client = client
        self.chance = random.Random(seed)
        self.met: Counter[str] = Counter()
        self.kept = self.create()
        self.filled()

    def create(self) -> str:
        return str(self.client.post("/v1/sandboxes", json=WISH).raise_for_status().json()["id"])

    def waiting(self) -> set[str]:
        pools = self.client.get("/v1/pools").raise_for_status().json()
        return {one for pool in pools for one in pool["ids"]}

    def filled(self) -> None:
        limit = time.monotonic() + 60
        while len(self.waiting()) < WAITING:
            assert time.monotonic() < limit, f"the pool is not filled\n{self.home.log_tail()}"
            time.sleep(0.02)

    def hit(self, part: Part) -> None:
        """Have a machine made, by claiming one; kill a part meanwhile, and look what is left of that."""
        known = {self.kept, *self.waiting()}
        noticed = self.noticed()
        claimed = self.create()
        made = self._first_new({*known, claimed})
        if not made:
            victim = ""
        elif part is Part.GUESTD:
            victim = self._kill_guestd(made)
        elif part in {Part.SERVER, Part.EDGE}:
            victim = self._kill_beside(part, made)
        else:
            victim = self._kill_of_machine(part, made)
        if part is Part.SERVER:
            self.home.start()
        wait_for_answers(self.home.client_options)
        self.filled()
        # A refill that went through was not met; the edge is no part of it.
        if victim and (part in {Part.SERVER, Part.EDGE} or self.noticed() > noticed):
            self.met[part] += 1
            # What is killed early is restored once more, and waits as any.
            if part is not Part.EDGE and victim not in self.waiting():
                self._assert_unheard_of(victim)
        self._assert_well(claimed)

    def noticed(self) -> int:
        log = (self.home.path / "logs" / "server.log").read_text()
        return log.count("pool not refilled") + log.count("restored once more")

    def _there(self) -> set[str]:
        return {path.name for path in (self.home.path / "sandboxes").glob("i*")}

    def _first_new(self, known: set[str]) -> str:
        limit = time.monotonic() + SIGHT_S
        while time.monotonic() < limit:
            if new := self._there() - known:
                return new.pop()
        return ""

    def _kill_beside(self, part: Part, made: str) -> str:
        pids = [self.home.server_pid()]
        if part is Part.EDGE:
            pids = [one.pid for one in self.home.processes("atoll-edge")][:1]
        time.sleep(self.chance.uniform(0, 0.05))
        # Not yet among those that wait, or nobody could say that it is being made.
        making = made not in self.waiting()
        for pid in pids:
            kill(pid)
        return made if making else ""

    def _kill_of_machine(self, part: Part, made: str) -> str:
        limit = time.monotonic() + SIGHT_S
        while time.monotonic() < limit:
            for one in of_runsc(self.home, part):
                if one.sandbox_id == made:
                    time.sleep(self.chance.uniform(0, 0.02))
                    kill(one.process.pid)
                    return made
            if part is Part.HELPER and made in self.waiting():
                break
        return ""

    def _kill_guestd(self, made: str) -> str:
        """Kill it when it has come up, and the server has done a little more, or nothing."""
        server = self.home.server_pid()
        limit = time.monotonic() + SIGHT_S
        while time.monotonic() < limit:
            with standing_still(server):
                up = self._is_up(made)
            if up:
                time.sleep(self.chance.uniform(0, 0.008))
                with standing_still(server):
                    return made if kill_guestd_outside(self.home, made) else ""
            time.sleep(0.002)
        return ""

    def _is_up(self, made: str) -> bool:
        """Wait a moment for guestd to run in a machine whose restore may be under way."""
        limit = time.monotonic() + 0.3
        while time.monotonic() < limit:
            if (self.home.path / "sandboxes" / made / "sentry.pid").exists() and not any(
                one.sandbox_id == made for one in of_runsc(self.home, Part.HELPER)
            ):
                return True
        return False

    def _assert_unheard_of(self, victim: str) -> None:
        limit = time.monotonic() + 30
        while (left := traces(self.home, victim)) and time.monotonic() < limit:
            time.sleep(0.05)
        assert left == []
        assert self.client.get(f"/v1/sandboxes/{victim}").status_code == httpx.codes.NOT_FOUND
        assert victim not in self.waiting()

    def _assert_well(self, claimed: str) -> None:
        assert self.home.settled_running() == {self.kept, claimed}
        for one in (self.kept, claimed):
            assert run_inside(self.home.client_options, one, "echo up") == "up\n"
        self.client.delete(f"/v1/sandboxes/{claimed}").raise_for_status()
        limit = time.monotonic() + 30
        while (there := self._there()) != {self.kept, *self.waiting()}:
            assert time.monotonic() < limit, there
            time.sleep(0.05)
        assert cgroups.of_sandboxes(self.home.id) == there


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Have a process do nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def traces(home: LiveHome, sandbox_id: str) -> list[str]:
    """List all that is on this host with a sandbox's id in its name, but lines of logs."""
    found = named(home.path, sandbox_id)
    found += [name for name in cgroups.of_sandboxes(home.id) if name == sandbox_id]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if sandbox_id in line]
    for process in psutil.process_iter(["cmdline"]):
        if any(sandbox_id in word for word in process.info["cmdline"] or []):
            found.append(f"process {process.pid}")
    return found


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("ATOLL_CHAOS_SEED") or random.randrange(1 << 32))


def test_refills_are_met_by_a_kill_of_every_part_and_leave_nothing(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    record_property("seed", seed)
    with fresh_home(SETTINGS, pool=True) as home, api(home.client_options) as client:
        refills = Refills(home, client, seed)
        for part in PARTS:
            tries = 0
            while refills.met[part] < MEETINGS and tries < MOST_TRIES:
                refills.hit(part)
                tries += 1
        sys.stdout.write(f"ATOLL_CHAOS_SEED={seed} refills met {dict(refills.met)}\n")

    assert refills.met == dict.fromkeys(PARTS, MEETINGS), "some part was seldom hit amidst a refill"
