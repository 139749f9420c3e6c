"""
The real server over real gVisor is killed at every step of a create and of a kill.

Each next server puts right what the one before left, and dies at the next step.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox
from support.home import LiveHome, fresh_home

from atoll.server.network.slots import READY

TESTS = Path(__file__).parents[1]

CREATE = (
    "SqliteSandboxes.add_sandbox:before", "SqliteSandboxes.add_sandbox:after",
    "Record.write:before", "Record.write:after",
    "Records.write:after", "Fence.admit:before", "Fence.admit:after",
    "Cgroup.create:after", "Launcher._describe:after",
    "Runsc._spawn:after", "Runsc.run:after", "Beginner.boot:after",
    "Record.write:2:before", "Record.write:2:after",
    "HttpGuest.configure:before", "HttpGuest.configure:after",
    "SqliteSandboxes.replace_sandbox:after",
)  # fmt: skip
KILL = (
    "SqliteSandboxes.replace_sandbox:before", "SqliteSandboxes.replace_sandbox:after",
    "EdgeProcess.forget:after",
    "Cgroup.kill:after", "Cgroup.remove:after",
    "Runsc.remove_state:after", "Remover._remove_files:after",
    "Fence.dismiss:after", "SlotMaker.remove_all:after", "Records.remove:after",
    "SqliteSandboxes.replace_sandbox:2:before", "SqliteSandboxes.replace_sandbox:2:after",
)  # fmt: skip
# Between the same two acts as one of those above.
CREATE_TWINS = (
    "Launcher._write_down:before", "Launcher._write_down:after",
    "SlotPool.acquire:before", "Records.write:before", "SlotPool.acquire:after",
    "Cgroup.create:before", "Launcher._describe:before", "Runsc.run:before",
    "Launcher._set_limits:before", "Cgroup.set_memory_wall:2:before", "Launcher._set_limits:after",
    "Launcher.launch:after", "SqliteSandboxes.replace_sandbox:before",
)  # fmt: skip
KILL_TWINS = (
    "EdgeProcess.forget:before", "Remover.remove:before", "Cgroup.kill:before", "Cgroup.remove:before",
    "Runsc.remove_state:before", "SlotPool.release:before", "Fence.dismiss:before",
    "SlotMaker.remove_all:before", "Records.remove:before", "SlotPool.release:after", "Remover.remove:after",
)  # fmt: skip
# The row says what is wanted: before that it runs on, after that it goes.
NOT_BEGUN = "SqliteSandboxes.replace_sandbox:before"
# A sandbox that is up when the server dies has a row that says so.
DONE = "SqliteSandboxes.replace_sandbox:after"


def steps(distinct: tuple[str, ...], twins: tuple[str, ...]) -> list[Any]:
    """The twins take a minute more, and say the same."""
    return [*distinct, *(pytest.param(step, marks=pytest.mark.heavy) for step in twins)]


def numbers(where: str, pattern: str) -> set[int]:
    """List the numbers of the slots of which something is there."""
    return {int(path.name.rpartition("-")[2]) for path in Path(where).glob(pattern)}


def admitted(home_id: str) -> set[str]:
    """List the addresses whose packets the home's fence lets pass."""
    words = ["nft", "-j", "list", "map", "inet", f"atoll_{home_id}", "policies4"]
    answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    (policies,) = [item["map"] for item in json.loads(answer)["nftables"] if "map" in item]
    return {address for address, _ in policies.get("elem", [])}


class DeadlyHome:
    """A home whose server dies where it is told to."""

    def __init__(self, home: LiveHome) -> None:
        self.home = home
        self.options = home.client_options
        self.kept: Sandbox = Sandbox.create("minimal", timeout=1800, **self.options)
        self.alive = {self.kept.sandbox_id}

    @contextmanager
    def serving(self, step: str) -> Iterator["subprocess.Popen[str]"]:
        """Run a server that dies at a step, once it is armed."""
        (self.home.path / "armed").unlink(missing_ok=True)
        words = [sys.executable, "-m", "support.deadly_server", step]
        words += ["serve", "--home", str(self.home.path), "--listen", self.home.listen]
        environment = {**os.environ, **self.home.env, "PYTHONPATH": str(TESTS)}
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as server:
            assert server.stdout is not None
            try:
                assert server.stdout.readline() == "ready\n", self.home.log_tail()
                yield server
            finally:
                server.kill()

    def settle(self) -> None:
        """Check that exactly what should live does, and that nothing else is left of anybody."""
        limit = time.monotonic() + 30
        while (left := self._wrong()) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not left

    def _wrong(self) -> dict[str, object]:
        tag, alive = self.home.id, self.alive
        processes = [" ".join(process.info["cmdline"]) for process in self.home.processes("runsc")]
        found: dict[str, set[str]] = {
            "rows": self.rows(),
            "directories": {path.name for path in (self.home.path / "sandboxes").glob("i*")},
            "records": {path.stem for path in (self.home.path / "slots").glob("i*")},
            "groups": {path.name for path in Path("/sys/fs/cgroup").glob(f"**/atoll-{tag}/i*")},
        }
        wrong: dict[str, object] = {name: what ^ alive for name, what in found.items() if what != alive}
        if strangers := [line for line in processes if not any(one in line for one in alive)]:
            wrong["processes"] = strangers
        wrong |= self._wrong_slots()
        mounts = Path("/proc/mounts").read_text().splitlines()
        mounts = [line for line in mounts if f"{self.home.path}/sandboxes" in line]
        if strays := [line for line in mounts if not any(one in line for one in alive)]:
            wrong["mounts"] = strays
        return wrong

    def _wrong_slots(self) -> dict[str, object]:
        """Who lives has a slot and is admitted; besides theirs only the ready ones are there."""
        tag = self.home.id
        records = (self.home.path / "slots").glob("i*.json")
        held = {int(json.loads(path.read_text())["number"]) for path in records}
        first = IPv4Network(json.loads((self.home.path / "home.json").read_text())["range"])[0]
        found = {
            "admitted": {int(IPv4Address(address)) - int(first) for address in admitted(tag)},
            "namespaces": numbers("/run/netns", f"atoll-{tag}-*"),
            "links": numbers("/sys/class/net", f"at{tag}-*"),
        }
        wrong: dict[str, object] = {}
        if found["admitted"] != held:
            wrong["admitted"] = found["admitted"] ^ held
        for name in ("namespaces", "links"):
            if not held <= found[name] or len(found[name]) != len(held) + READY:
                wrong[name] = found[name]
        return wrong

    def arm(self) -> None:
        (self.home.path / "armed").touch()

    def call(self, method: str, path: str, body: object = None) -> httpx.Response | None:
        """Call the API as a client that does not ask twice; None: the server died."""
        headers = {"X-API-Key": self.options["api_key"]}
        try:
            url = self.options["api_url"] + path
            answer = httpx.request(method, url, json=body, headers=headers, timeout=60)
        except httpx.HTTPError:
            return None
        return None if answer.status_code in {502, 503} else answer

    def rows(self) -> set[str]:
        pages = self.call("GET", "/v2/sandboxes")
        assert pages is not None
        return {row["sandboxID"] for row in json.loads(pages.content)}


@contextmanager
def dying_at(home: DeadlyHome, step: str) -> Iterator[None]:
    with home.serving(step) as server:
        home.settle()
        assert home.kept.commands.run("echo still here").stdout == "still here\n"
        yield
        assert server.wait(timeout=60) == -signal.SIGKILL, f"{step} was never reached"


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


@pytest.mark.parametrize("step", steps(CREATE, CREATE_TWINS))
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


@pytest.mark.parametrize("step", steps(KILL, KILL_TWINS))
def test_a_kill_is_finished_once_it_is_written_down(deadly_home: DeadlyHome, step: str) -> None:
    with dying_at(deadly_home, step):
        victim = Sandbox.create("minimal", timeout=900, **deadly_home.options).sandbox_id
        deadly_home.arm()
        assert deadly_home.call("DELETE", f"/sandboxes/{victim}") is None
    if step == NOT_BEGUN:
        with deadly_home.serving("never"):
            assert victim in deadly_home.rows()
            assert Sandbox.kill(victim, **deadly_home.options)
