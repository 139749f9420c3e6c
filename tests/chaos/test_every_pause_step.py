"""The server is killed at every step of a pause and of a resume; no paused sandbox loses a byte."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from e2b import Sandbox
from support.deadly_home import DeadlyHome, dying_at
from support.home import fresh_home

PAUSE = (
    "SqliteSandboxes.replace_sandbox:after", "Runsc.checkpoint:after", "Cgroup.kill_once:after",
    "Remover.remove_but_slot:after",
)  # fmt: skip
# The steps between, and twins: between the same two acts as another.
PAUSE_MORE = (
    "SqliteSandboxes.replace_sandbox:before", "Fence.hush:before", "Fence.hush:after",
    "Runsc.checkpoint:before", "Half.publish:before", "Half.publish:after", "Cgroup.freeze:after",
    "Cgroup.kill_once:before", "EdgeProcess.forget:after", "Cgroup.kill:before", "Cgroup.kill:after",
    "Remover._remove_files:before", "Fence.hush:2:after", "SqliteSandboxes.replace_sandbox:2:before",
    "SqliteSandboxes.replace_sandbox:2:after",
)  # fmt: skip
RESUME = ("Runsc.restore:after", "SqliteSandboxes.replace_sandbox:2:after")
RESUME_MORE = (
    "SqliteSandboxes.replace_sandbox:before", "SqliteSandboxes.replace_sandbox:after",
    "SlotMaker.address_again:after", "Record.write:after",
    "Cgroup.create:after", "Launcher._describe:after", "Runsc._spawn:after", "Runsc.restore:before",
    "Launcher._set_limits:after", "HttpGuest.configure:before", "HttpGuest.configure:after",
    "SqliteSandboxes.replace_sandbox:2:before",
    "CheckpointFiles.remove:before", "CheckpointFiles.remove:after",
)  # fmt: skip
# What was decided by then, by step.
ASLEEP = {
    "Cgroup.kill_once:before", "Cgroup.kill_once:after", "EdgeProcess.forget:after",
    "SqliteSandboxes.replace_sandbox:2:after",
}  # fmt: skip
AWAKE = {
    "SqliteSandboxes.replace_sandbox:before", "SqliteSandboxes.replace_sandbox:after",
    "Runsc.checkpoint:after",
}  # fmt: skip
TEXT = "held in memory"


def steps(few: tuple[str, ...], more: tuple[str, ...]) -> list[Any]:
    return [*few, *(pytest.param(step, marks=pytest.mark.heavy) for step in more)]


@pytest.fixture(scope="module")
def deadly_home() -> Iterator[DeadlyHome]:
    with fresh_home() as home:
        deadly = DeadlyHome(home)
        victim = Sandbox.create("minimal", timeout=1800, **deadly.options)
        victim.files.write("/dev/shm/text", TEXT)
        deadly.alive.add(victim.sandbox_id)
        os.kill(home.server_pid(), signal.SIGKILL)
        yield deadly
        home.start()


@pytest.fixture
def victim(deadly_home: DeadlyHome) -> str:
    (found,) = (deadly_home.alive | deadly_home.sleeping) - {deadly_home.kept.sandbox_id}
    return found


def is_paused(home: DeadlyHome, victim: str) -> bool:
    answer = home.call("GET", f"/sandboxes/{victim}")
    assert answer is not None
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["state"] == "paused")


def fell_asleep(home: DeadlyHome, victim: str, asleep: bool) -> None:
    (home.sleeping if asleep else home.alive).add(victim)
    (home.alive if asleep else home.sleeping).discard(victim)


def check(home: DeadlyHome, victim: str) -> bool:
    """Let the next server put things right, and look; says whether the sandbox was paused then."""
    with home.serving("never"):
        asleep = is_paused(home, victim)
        fell_asleep(home, victim, asleep)
        home.settle()
        sandbox = Sandbox.connect(victim, timeout=1800, **home.options)
        fell_asleep(home, victim, False)
        assert sandbox.files.read("/dev/shm/text") == TEXT
        assert sandbox.commands.run("echo up").stdout == "up\n"
        home.settle()
    return asleep


@pytest.mark.parametrize("step", steps(PAUSE, PAUSE_MORE))
def test_a_pause_is_undone_or_done(deadly_home: DeadlyHome, victim: str, step: str) -> None:
    with dying_at(deadly_home, step):
        deadly_home.arm()
        answer = deadly_home.call("POST", f"/sandboxes/{victim}/pause")
        # What is left of the machine is removed behind the answer.
        behind = step.startswith(("Cgroup.kill:", "Remover", "Fence.hush:2"))
        assert answer is None or (behind and answer.status_code == 204)

    asleep = check(deadly_home, victim)

    if behind or step in ASLEEP:
        assert asleep
    if step in AWAKE:
        assert not asleep


@pytest.mark.parametrize("step", steps(RESUME, RESUME_MORE))
def test_a_resume_is_undone_or_done(deadly_home: DeadlyHome, victim: str, step: str) -> None:
    with dying_at(deadly_home, step):
        answer = deadly_home.call("POST", f"/sandboxes/{victim}/pause")
        assert answer is not None
        assert answer.status_code == 204
        fell_asleep(deadly_home, victim, True)
        deadly_home.arm()
        answer = deadly_home.call("POST", f"/v2/sandboxes/{victim}/connect", {"timeout": 1800})
        # The old checkpoint is removed behind the answer: it may arrive before the server dies.
        assert answer is None or ("remove" in step and answer.status_code == 201)

    asleep = check(deadly_home, victim)

    assert asleep is ("remove" not in step and step != "SqliteSandboxes.replace_sandbox:2:after")
