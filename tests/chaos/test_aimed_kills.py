"""
Each verb is under way when a part is killed: it is started, and the kill comes after a random part of the
time that it mostly takes.

What was answered holds, what was not is done or undone, and nothing else is left. How often a kill of which
part met which verb is printed, with the seed; `ATOLL_CHAOS_SEED` repeats the moments. `test_parts_killed.py`
kills without looking, amidst many verbs at once; `test_refills_killed.py` is about the pool.
"""

import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from support.deadly_home import DeadlyHome
from support.home import LiveHome, fresh_home
from support.parts import Part, api, kill, kill_guestd_outside, of_runsc, run_inside, settled

# Some minutes, most of them starts of servers.
pytestmark = pytest.mark.heavy

# Of each verb, until so many kills have met it; more tries than that are a bug of the aim.
MEETINGS = 3
# What is promised of a machine that ends.
TOLD_WITHIN_S = 1
MOST_TRIES = 14
PARTS = (Part.SERVER, Part.EDGE, Part.HELPER, Part.SENTRY, Part.GOFER, Part.GUESTD)
# Those that a sandbox does not live on without.
OF_SANDBOX = {Part.SENTRY, Part.GOFER, Part.GUESTD}
# Those have no machine before.
MAKING = {"create", "resume"}
# A kill asks no sandbox, and so runs no command.
NOT_THERE = {("kill", Part.HELPER)}
FAULTS = {"runtime_ended", "guest_ended"}
WRITE = "head -c 3000000 /dev/urandom | tee /dev/shm/kept /root/kept | sha256sum"
READ = "cat /dev/shm/kept | sha256sum; cat /root/kept | sha256sum"
WISH = {"template": "minimal", "timeout_seconds": 1800}


@dataclass
class Shot:
    """
    A verb, and a kill amidst it.

    Attributes:
        answer: of the verb; None: there was none.
        part: what was killed; None: nothing of this kind was there.
        met: whether the verb was under way when it was killed.
    """

    answer: httpx.Response | None
    part: Part | None
    met: bool

    @property
    def done(self) -> bool:
        """Whether the verb was acknowledged."""
        return self.answer is not None and self.answer.is_success


class Range:
    """A home, and one sandbox that verbs are done to."""

    def __init__(self, home: LiveHome, seed: int) -> None:
        self.home = home
        self.deadly = DeadlyHome(home)
        self.options = home.client_options
        self.chance = random.Random(seed)
        self.met: Counter[str] = Counter()
        self.met_by: Counter[str] = Counter()
        self.usual: dict[str, float] = {}
        self.target = self.content = ""
        # What becomes of a target whose machine ends, and the snapshot that it comes back from then.
        self.restart = "never"
        self.origin: set[str] = set()

    def call(self, method: str, path: str, body: object = None) -> httpx.Response | None:
        """Ask once; None: nobody answered."""
        try:
            with api(self.options) as client:
                return client.request(method, path, json=body)
        except httpx.HTTPError:
            return None

    def ask(self, method: str, path: str, body: object = None) -> Any:
        answer = self.call(method, path, body)
        assert answer is not None
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def renew(self) -> None:
        """Have a sandbox that runs, with content of its own."""
        if self.target and self.row()["status"] == "paused":
            self.wake()
        if not self.target or self.row()["status"] != "running":
            self._forget_origin()
            self.target = self.ask("POST", "/v1/sandboxes", {**WISH, "restart": self.restart})["id"]
            self.content = run_inside(self.options, self.target, WRITE).split()[0]
            if self.restart == "from_snapshot":
                self.origin = {self.ask("POST", f"/v1/sandboxes/{self.target}/snapshots")["id"]}
                self.deadly.snapshots = self.origin
        self.deadly.alive = {self.deadly.kept.sandbox_id, self.target}
        self.deadly.sleeping = set()

    def _forget_origin(self) -> None:
        for snapshot in self.origin:
            self.ask("DELETE", f"/v1/snapshots/{snapshot}")
        self.origin = self.deadly.snapshots = set()

    def sleep(self) -> None:
        self.ask("POST", f"/v1/sandboxes/{self.target}/pause")
        self.deadly.alive.discard(self.target)
        self.deadly.sleeping = {self.target}

    def wake(self) -> None:
        self.ask("POST", f"/v1/sandboxes/{self.target}/resume", {"timeout_seconds": 1800})

    def row(self, sandbox_id: str | None = None) -> dict[str, Any]:
        """Read a row, of the target mostly, once nothing is under way with it; who is said to run answers."""
        limit = time.monotonic() + 30
        with api(self.options) as client:
            while True:
                row = settled(client, sandbox_id or self.target)
                if row["status"] in {"killed", "failed"} or self._answers(row):
                    return row
                assert time.monotonic() < limit, f"it is said to be well, and is not: {row}"

    def _answers(self, row: dict[str, Any]) -> bool:
        with suppress(Exception):
            return row["status"] == "paused" or run_inside(self.options, row["id"], "echo up") == "up\n"
        return False

    def shoot(self, verb: str, act: Callable[[], httpx.Response | None], part: Part | None) -> Shot:
        """Do it, and kill a part amidst it; without a part, measure how long it takes."""
        answers: list[httpx.Response | None] = []
        thread = threading.Thread(target=lambda: answers.append(act()))
        began = time.monotonic()
        shot = self._aim(verb, part) if part is not None else None
        thread.start()
        hit, met = shot(thread) if shot is not None else (False, False)
        thread.join(timeout=120)
        assert not thread.is_alive(), f"{verb} hangs"
        if part is None:
            self.usual[verb] = time.monotonic() - began
        if part is Part.SERVER:
            self.home.start()
        elif part is Part.EDGE:
            self._wait_for_edge()
        if met:
            self.met[verb] += 1
            self.met_by[f"{verb}/{part}"] += 1
        return Shot(answers[0], part if hit else None, met)

    def _aim(self, verb: str, part: Part) -> Callable[[threading.Thread], tuple[bool, bool]]:
        """Aim at a part, before the verb begins; the shot says whether something was hit, and amidst it."""
        if part is Part.GUESTD:
            return lambda verb_is: self._shoot_guestd(verb, verb_is)
        if part is Part.SERVER:
            pids = [self.home.server_pid()]
        elif part is Part.EDGE:
            pids = [one.pid for one in self.home.processes("atoll-edge")][:1]
        elif part is Part.HELPER or verb in MAKING:
            # Nothing is there yet.
            return lambda verb_is: self._shoot_new(verb, part, verb_is)
        else:
            pids = [one.process.pid for one in of_runsc(self.home, part) if one.sandbox_id == self.target]

        def shoot(verb_is: threading.Thread) -> tuple[bool, bool]:
            time.sleep(self.chance.uniform(0, 1) * self.usual[verb])
            met = verb_is.is_alive()
            for pid in pids:
                kill(pid)
            return bool(pids), met and bool(pids)

        return shoot

    def _shoot_new(self, verb: str, part: Part, verb_is: threading.Thread) -> tuple[bool, bool]:
        """Kill what the verb makes: a command at once, which ends soon; all else a while after that."""
        spared = self._spared(verb)
        while verb_is.is_alive():
            if found := [one for one in of_runsc(self.home, part) if one.sandbox_id not in spared]:
                if part is not Part.HELPER:
                    time.sleep(self.chance.uniform(0, 0.3) * self.usual[verb])
                victim = self.chance.choice(found).process
                met = verb_is.is_alive() and victim.is_running()
                kill(victim.pid)
                return met, met
        return False, False

    def _spared(self, verb: str) -> set[str]:
        """List those that a verb has nothing to do with."""
        return {self.deadly.kept.sandbox_id} | ({self.target} if verb == "create" else set())

    def _shoot_guestd(self, verb: str, verb_is: threading.Thread) -> tuple[bool, bool]:
        time.sleep(self.chance.uniform(0, 1) * self.usual[verb])
        while True:
            there = {path.name for path in (self.home.path / "sandboxes").glob("i*")}
            names = sorted(there - self._spared(verb))
            met = verb_is.is_alive()
            if names and kill_guestd_outside(self.home, self.chance.choice(names)):
                return True, met
            if not verb_is.is_alive():
                return False, False

    def _wait_for_edge(self) -> None:
        limit = time.monotonic() + 30
        while (answer := self.call("GET", "/v1/sandboxes")) is None or answer.is_error:
            assert time.monotonic() < limit, "the edge did not come back"
            time.sleep(0.05)

    def strangers(self) -> set[str]:
        """List the sandboxes beside the target and the one that stands by, once each is settled."""
        known = {self.target, self.deadly.kept.sandbox_id}
        found = {row["id"] for row in self.ask("GET", "/v1/sandboxes")["sandboxes"]} - known
        return {one for one in found if self.row(one)["status"] in {"running", "paused"}}

    def snapshots(self) -> set[str]:
        """List the snapshots beside the one that the target comes back from."""
        return {one["id"] for one in self.ask("GET", "/v1/snapshots")["snapshots"]} - self.origin

    def end(self, sandboxes: set[str]) -> None:
        for one in sandboxes:
            answer = self.call("DELETE", f"/v1/sandboxes/{one}")
            assert answer is not None
            assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text

    def assert_content(self, sandbox_id: str) -> None:
        read = [line.split()[0] for line in run_inside(self.options, sandbox_id, READ).splitlines()]
        assert read == [self.content, self.content], f"{sandbox_id} lost its bytes"

    def assert_target(self, shot: Shot, expected: set[str]) -> None:
        """Check that it is what it may be, awake or asleep, with its bytes."""
        if shot.part in OF_SANDBOX:
            # A machine that was hit after the verb's last look at it is told to have ended within that.
            time.sleep(TOLD_WITHIN_S)
        row = self.row()
        hit = shot.part in OF_SANDBOX and row["end_reason"] in FAULTS and self.restart == "never"
        back = shot.part in OF_SANDBOX and row["fall"] is not None and row["status"] == "running"
        assert row["status"] in expected or hit or back, (row, shot)
        if row["status"] == "paused":
            self.wake()
        if row["status"] in {"running", "paused"}:
            self.assert_content(self.target)

    def settle(self) -> None:
        """Check that nothing is left but the target, if it lives, and the one that stands by."""
        status = self.row()["status"]
        self.deadly.alive = {self.deadly.kept.sandbox_id}
        self.deadly.sleeping = set()
        if status == "running":
            self.deadly.alive.add(self.target)
        elif status == "paused":
            self.deadly.sleeping.add(self.target)
        self.deadly.settle()


@dataclass(frozen=True)
class Verb:
    """How a verb is prepared, done, and looked at after a kill amidst it."""

    act: Callable[[Range], httpx.Response | None]
    check: Callable[[Range, Shot], None]
    prepare: Callable[[Range], None] = field(default=lambda _: None)


def check_created(place: Range, shot: Shot) -> None:
    found = place.strangers()
    if shot.done and shot.answer is not None:
        made = shot.answer.json()["id"]
        row = place.row(made)
        assert made in found or (shot.part in OF_SANDBOX and row["end_reason"] in FAULTS), row
    for one in found:
        assert run_inside(place.options, one, "echo up") == "up\n"
    place.end(found)


def check_paused(place: Range, shot: Shot) -> None:
    place.assert_target(shot, {"paused"} if shot.done else {"running", "paused"})


def check_resumed(place: Range, shot: Shot) -> None:
    place.assert_target(shot, {"running"} if shot.done else {"running", "paused"})


def check_forked(place: Range, shot: Shot) -> None:
    found = place.strangers()
    if shot.done and shot.answer is not None and shot.part not in OF_SANDBOX:
        children = {one["sandbox"]["id"] for one in shot.answer.json() if one["sandbox"] is not None}
        assert children <= found
        for child in children:
            place.assert_content(child)
    place.end(found)
    # What was written down was for the children, and goes with the fork, or with the server.
    assert place.snapshots() == set()
    place.assert_target(shot, {"running"})


def check_snapped(place: Range, shot: Shot) -> None:
    taken = {shot.answer.json()["id"]} if shot.done and shot.answer is not None else set()
    check_snapshots(place, shot, taken)


def check_snapshots(place: Range, shot: Shot, acknowledged: set[str]) -> None:
    limit = time.monotonic() + 30
    while True:
        listed = place.snapshots()
        if listed == acknowledged or not shot.done or time.monotonic() > limit:
            break
        time.sleep(0.1)
    assert acknowledged <= listed, "an acknowledged snapshot is lost"
    for snapshot in listed:
        if place.content:
            child = place.ask("POST", "/v1/sandboxes", {**WISH, "template": snapshot})["id"]
            place.assert_content(child)
            place.end({child})
        place.ask("DELETE", f"/v1/snapshots/{snapshot}")
    place.assert_target(shot, {"running"})


def check_killed(place: Range, shot: Shot) -> None:
    row = place.row()
    if shot.done:
        assert row["status"] in {"killed", "failed"}, row
    elif row["status"] == "running":
        # Not begun; it is whole, and can be ended.
        place.assert_content(place.target)
        place.end({place.target})
    else:
        assert row["status"] in {"killed", "failed"}, row


VERBS = {
    "create": Verb(lambda place: place.call("POST", "/v1/sandboxes", WISH), check_created),
    "pause": Verb(lambda place: place.call("POST", f"/v1/sandboxes/{place.target}/pause"), check_paused),
    "resume": Verb(
        lambda place: place.call("POST", f"/v1/sandboxes/{place.target}/resume", {"timeout_seconds": 1800}),
        check_resumed,
        Range.sleep,
    ),
    "fork": Verb(
        lambda place: place.call(
            "POST", f"/v1/sandboxes/{place.target}/fork", {"count": 2, "timeout_seconds": 1800}
        ),
        check_forked,
    ),
    "snapshot": Verb(
        lambda place: place.call("POST", f"/v1/sandboxes/{place.target}/snapshots"), check_snapped
    ),
    "kill": Verb(lambda place: place.call("DELETE", f"/v1/sandboxes/{place.target}"), check_killed),
}


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("ATOLL_CHAOS_SEED") or random.randrange(1 << 32))


@pytest.fixture
def place(seed: int) -> Iterator[Range]:
    # However often it falls, it comes back at once.
    with fresh_home('[sandboxes]\nrestart_lasts = "0s"\n') as home:
        yield Range(home, seed)


def once(place: Range, name: str, part: Part | None) -> None:
    verb = VERBS[name]
    place.renew()
    verb.prepare(place)
    shot = place.shoot(name, lambda: verb.act(place), part)
    verb.check(place, shot)
    place.settle()


# Of 35 pairs, 17 took 300 s on two cores with a load of 18.
@pytest.mark.timeout(900)
def test_every_verb_is_met_by_a_kill_of_every_part_and_nothing_answered_is_lost(
    place: Range, seed: int, record_property: Callable[[str, object], None]
) -> None:
    record_property("seed", seed)
    for name in VERBS:
        took = []
        for _ in range(3):
            once(place, name, None)
            took.append(place.usual[name])
        place.usual[name] = statistics.median(took)
    cells = [(name, part) for name in VERBS for part in PARTS if (name, part) not in NOT_THERE]
    for name, part in cells:
        tries = 0
        while not place.met_by[f"{name}/{part}"] and tries < MOST_TRIES:
            once(place, name, part)
            tries += 1
    report(place, seed)

    missed = [f"{name}/{part}" for name, part in cells if not place.met_by[f"{name}/{part}"]]
    assert not missed, f"never met: {missed}"


def report(place: Range, seed: int) -> None:
    usual = {name: f"{took * 1e3:.0f} ms" for name, took in place.usual.items()}
    by_part = dict(sorted(place.met_by.items()))
    sys.stdout.write(f"ATOLL_CHAOS_SEED={seed} met {dict(place.met)}, {by_part}; usual {usual}\n")


@pytest.mark.parametrize("restart", ["never", "from_snapshot"])
def test_guestd_is_killed_amidst_every_verb(
    place: Range, seed: int, record_property: Callable[[str, object], None], restart: str
) -> None:
    record_property("seed", seed)
    place.restart = restart
    for name in VERBS:
        once(place, name, None)
        tries = 0
        while place.met[name] < MEETINGS and tries < MOST_TRIES:
            once(place, name, Part.GUESTD)
            tries += 1
    report(place, seed)

    assert set(place.met) == set(VERBS), f"some verb was never met: {place.met}"
