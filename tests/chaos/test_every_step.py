"""
The real server over real gVisor is killed at every step of a create and of a kill.

Each next server puts right what the one before left, and dies at the next step.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox
from support.deadly_home import DeadlyHome, dying_at
from support.home import fresh_home

# One for each thing that is left half made, or half removed, by then.
CREATE = (
    "Fence.admit:after", "Cgroup.create:after", "Runsc._spawn:after", "Record.write:2:after",
    "SqliteSandboxes.replace_sandbox:after",
)  # fmt: skip
KILL = (
    "SqliteSandboxes.replace_sandbox:before", "Cgroup.kill:after", "Remover._remove_files:after",
    "Records.remove:after",
)  # fmt: skip
# The steps between, and twins: between the same two acts as another.
CREATE_MORE = (
    "SqliteSandboxes.add_sandbox:before", "SqliteSandboxes.add_sandbox:after",
    "Record.write:before", "Record.write:after",
    "Launcher._write_down:before", "Launcher._write_down:after",
    "SlotPool.acquire:before", "Records.write:before", "Records.write:after", "Fence.admit:before",
    "SlotPool.acquire:after", "Cgroup.create:before", "Launcher._describe:before",
    "Launcher._describe:after", "Runsc.run:before", "Runsc.run:after", "Beginner.boot:after",
    "Record.write:2:before", "Launcher._set_limits:before", "Cgroup.set_memory_wall:2:before",
    "Launcher._set_limits:after", "Launcher.launch:after",
    "HttpGuest.configure:before", "HttpGuest.configure:after", "SqliteSandboxes.replace_sandbox:before",
)  # fmt: skip
KILL_MORE = (
    "SqliteSandboxes.replace_sandbox:after",
    "EdgeProcess.forget:before", "EdgeProcess.forget:after", "Remover.remove:before", "Cgroup.kill:before",
    "Cgroup.remove:before", "Cgroup.remove:after", "Runsc.remove_state:before", "Runsc.remove_state:after",
    "SlotPool.release:before", "Fence.dismiss:before", "Fence.dismiss:after",
    "SlotMaker.remove_all:before", "SlotMaker.remove_all:after", "Records.remove:before",
    "SlotPool.release:after", "Remover.remove:after",
    "SqliteSandboxes.replace_sandbox:2:before", "SqliteSandboxes.replace_sandbox:2:after",
)  # fmt: skip
# The row says what is wanted: before that it runs on, after that it goes.
NOT_BEGUN = "SqliteSandboxes.replace_sandbox:before"
# A sandbox that is up when the server dies has a row that says so.
DONE = "SqliteSandboxes.replace_sandbox:after"


def steps(few: tuple[str, ...], more: tuple[str, ...]) -> list[Any]:
    """Leave most to who has two minutes: over the fake runtime all are killed at in tests/unit/control."""
    return [*few, *(pytest.param(step, marks=pytest.mark.heavy) for step in more)]


@pytest.fixture(scope="module")
def deadly_home() -> Iterator[DeadlyHome]:
    with fresh_home() as home:
        deadly = DeadlyHome(home)
        os.kill(home.server_pid(), signal.SIGKILL)
        yield deadly
        home.start()
        deadly.settle()
        assert deadly.kept.commands.run("echo still here").stdout == "still here\n"
        home_id = home.id
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert f"atoll_{home_id}" not in tables
    assert not list(Path("/run/netns").glob(f"atoll-{home_id}-*"))


@pytest.mark.parametrize("step", steps(CREATE, CREATE_MORE))
def test_a_create_is_undone_or_done(deadly_home: DeadlyHome, step: str) -> None:
    with dying_at(deadly_home, step):
        deadly_home.arm()
        answer = deadly_home.call("POST", "/v2/sandboxes", {"templateID": "minimal", "timeout": 900})
        assert answer is None
    if step == DONE:
        # Nobody was told its id, but a listing has it, and it works.
        with deadly_home.serving("never"):
            (new,) = deadly_home.rows() - deadly_home.alive
            assert Sandbox.connect(new, **deadly_home.options).commands.run("echo up").stdout == "up\n"
            assert Sandbox.kill(new, **deadly_home.options)


@pytest.mark.parametrize("step", steps(KILL, KILL_MORE))
def test_a_kill_is_finished_once_it_is_written_down(deadly_home: DeadlyHome, step: str) -> None:
    with dying_at(deadly_home, step):
        victim = Sandbox.create("minimal", timeout=900, **deadly_home.options).sandbox_id
        deadly_home.arm()
        assert deadly_home.call("DELETE", f"/sandboxes/{victim}") is None
    if step == NOT_BEGUN:
        with deadly_home.serving("never"):
            assert victim in deadly_home.rows()
            assert Sandbox.kill(victim, **deadly_home.options)
