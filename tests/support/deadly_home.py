"""A home whose server dies where it is told to, and what must be left of it afterwards."""

import contextlib
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

import httpx
from e2b import Sandbox

from atoll.server.network.slots import READY
from support import cgroups
from support.home import LiveHome
from support.sources import PYTHONPATH


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
        self.sleeping: set[str] = set()
        self.snapshots: set[str] = set()

    @contextmanager
    def serving(self, step: str) -> Iterator["subprocess.Popen[str]"]:
        """Run a server that dies at a step, once it is armed."""
        (self.home.path / "armed").unlink(missing_ok=True)
        words = [sys.executable, "-m", "support.deadly_server", step]
        words += ["serve", "--home", str(self.home.path), "--listen", self.home.listen]
        environment = {**os.environ, **self.home.env, "PYTHONPATH": PYTHONPATH}
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
        assert not left, left

    def _wrong(self) -> dict[str, object]:
        tag, alive, all_of_them = self.home.id, self.alive, self.alive | self.sleeping
        processes = [" ".join(process.info["cmdline"]) for process in self.home.processes("runsc")]
        found: dict[str, set[str]] = {
            "directories": {path.name for path in (self.home.path / "sandboxes").glob("i*")},
            "groups": cgroups.of_sandboxes(tag),
        }
        wrong: dict[str, object] = {name: what ^ alive for name, what in found.items() if what != alive}
        found = {
            "rows": self.rows(),
            "records": {path.stem for path in (self.home.path / "slots").glob("i*")},
        }
        wrong |= {name: what ^ all_of_them for name, what in found.items() if what != all_of_them}
        checkpoints = {path.name for path in (self.home.path / "checkpoints").iterdir()}
        paused = checkpoints - self.snapshots
        if (
            not self.snapshots <= checkpoints
            or len(paused) != len(self.sleeping)
            or {one.partition("-")[0] for one in paused} != self.sleeping
        ):
            wrong["checkpoints"] = checkpoints
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
        held = set()
        for path in (self.home.path / "slots").glob("i*.json"):
            # It may be on its way out.
            with contextlib.suppress(FileNotFoundError):
                held.add(int(json.loads(path.read_text())["number"]))
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
