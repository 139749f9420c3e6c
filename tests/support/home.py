"""A real server in a home of its own, as a user would start it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from e2b import CommandExitException, Sandbox, SandboxException, SandboxState
from e2b.sandbox.sandbox_api import SandboxQuery

from atoll import Pool
from atoll.server.host.ports import free_port

ATOLL = Path(sys.executable).parent / "atoll"
# The command line, called with its words, and ``data`` for its standard input.
Atoll = Callable[..., "subprocess.CompletedProcess[bytes]"]
CACHE = Path(os.environ.get("ATOLL_CACHE_DIR") or Path.home() / ".cache" / "atoll")
# Building the base template takes minutes on a slow mirror; a start without that takes seconds.
UP_TIMEOUT_S = 1500
# No machine waits to be claimed: what is there can be counted, and a start boots none.
NO_POOL = "[pool]\nmemory_bytes = 0\n"


def new_directory(settings: str = NO_POOL) -> Path:
    """Make a directory for a home, with the text of its settings.toml."""
    path = Path(tempfile.mkdtemp(prefix="atoll-test-"))
    (path / "settings.toml").write_text(settings)
    return path


def free_address() -> str:
    """Find a loopback address that nobody listens on."""
    return f"127.0.0.1:{free_port()}"


@dataclass(frozen=True)
class LiveHome:
    """A home whose server was started by ``atoll up --detach``."""

    path: Path
    listen: str

    def atoll(self, *args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line on this home."""
        kwargs.setdefault("timeout", UP_TIMEOUT_S)
        return subprocess.run(
            [ATOLL, *args], capture_output=True, text=True, env={**os.environ, **self.env}, **kwargs
        )

    @property
    def env(self) -> dict[str, str]:
        # The tests use the small template beside the one that a server starts with.
        return {"ATOLL_CACHE_DIR": str(CACHE), "ATOLL_TEMPLATES_BUILT_AT_START": "base,minimal"}

    def start(self) -> None:
        """Start the server, or start it again, and wait until it answers."""
        done = self.atoll("up", "--home", str(self.path), "--listen", self.listen, "--detach")
        assert done.returncode == 0, f"atoll up failed\n{done.stdout}\n{done.stderr}\n{self.log_tail()}"

    def down(self) -> None:
        """Take everything down."""
        done = self.atoll("down", "--home", str(self.path))
        assert done.returncode == 0, f"atoll down failed\n{done.stdout}\n{done.stderr}\n{self.log_tail()}"

    def log_tail(self) -> str:
        """Return the ends of the logs."""
        logs = sorted((self.path / "logs").glob("*.log"))
        return (
            "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-16000:]}" for log in logs)
            or "(no log)"
        )

    @property
    def id(self) -> str:
        """The home's id, which is in the name of all that belongs to it."""
        return str(json.loads((self.path / "home.json").read_text())["id"])

    @cached_property
    def exports(self) -> dict[str, str]:
        """What ``atoll env`` printed when it was first asked, as a mapping: each asking takes 0.3 s."""
        return self.exports_now()

    def exports_now(self) -> dict[str, str]:
        """What ``atoll env`` prints now."""
        lines = self.atoll("env", "--home", str(self.path), check=True).stdout
        return dict(word.split("=", 1) for word in shlex.split(lines) if "=" in word)

    @property
    def client_options(self) -> dict[str, Any]:
        """What E2B's client takes to speak to this home."""
        exports = self.exports
        return {
            "api_key": exports["E2B_API_KEY"],
            "api_url": exports["E2B_API_URL"],
            "sandbox_url": exports["E2B_SANDBOX_URL"],
        }

    @property
    def options(self) -> dict[str, Any]:
        """What our own SDK takes to speak to this home."""
        exports = self.exports
        return {"api_url": exports["ATOLL_API_URL"], "api_key": exports["ATOLL_API_KEY"]}

    def processes(self, word: str) -> list[psutil.Process]:
        """Find processes by a word of their command line, which must name this home as well."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if any(word in part for part in line) and any(str(self.path) in part for part in line):
                found.append(process)
        return found

    def server_pid(self) -> int:
        """Find the server's process."""
        found = self.processes("atoll.server.main")
        # A child of it looks the same until it has become another program.
        children = {process.pid for process in found if _parent(process) in {other.pid for other in found}}
        (server,) = [process.pid for process in found if process.pid not in children]
        return server

    def edge_pid(self) -> int:
        """Find the edge's process."""
        (edge,) = self.processes("atoll-edge")
        return edge.pid

    def sandbox_processes(self) -> list[str]:
        """List the processes of sandboxes of this home."""
        return [" ".join(process.cmdline()[:3]) for process in self.processes("runsc")]

    def waiting(self) -> set[str]:
        """List the machines that wait to become sandboxes."""
        exports = self.exports
        pools = Pool.list(api_url=exports["ATOLL_API_URL"], api_key=exports["ATOLL_API_KEY"])
        return {one for pool in pools for one in pool.ids}

    def settled_running(self) -> set[str]:
        """List the running sandboxes, once nothing is being created or removed."""
        limit = time.monotonic() + 60
        last: set[str] = set()
        while time.monotonic() < limit:
            running: set[str] = set()
            pages = Sandbox.list(query=SandboxQuery(state=[SandboxState.RUNNING]), **self.client_options)
            while pages.has_next:
                running |= {item.sandbox_id for item in pages.next_items()}
            directories = {path.name for path in (self.path / "sandboxes").glob("i*")} - self.waiting()
            if running == directories == last:
                return running
            last = running
            time.sleep(0.5)
        raise AssertionError(f"rows and directories still differ: {running ^ directories}")


def processes_in(sandbox: Sandbox) -> str:
    """List the processes in a sandbox, or say why that is not to be had. Needs no ps in it."""
    line, status = r"tr '\0\n' '  ' <$of/cmdline", "grep -E '^(State|Pid|PPid)' $of/status"
    each = f"for of in /proc/[0-9]*; do {line}; {status}; done"
    try:
        return sandbox.commands.run(each, user="root", timeout=10, request_timeout=10).stdout
    except (SandboxException, CommandExitException) as error:
        return f"(not known: {error!r})"


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


@contextmanager
def fresh_home(settings: str = "", *, pool: bool = False, path: Path | None = None) -> Iterator[LiveHome]:
    """
    Start a home, and take all of it down afterwards.

    Args:
        settings: text of its settings.toml.
        pool: whether machines wait to be claimed; not where a test counts what is there.
        path: where; it is made. None: in a directory for temporary files.
    """
    if not pool:
        settings += f"\n{NO_POOL}"
    if path is None:
        path = new_directory(settings)
    else:
        path.mkdir(mode=0o700)
        (path / "settings.toml").write_text(settings)
    home = LiveHome(path=path, listen=free_address())
    try:
        home.start()
        yield home
    finally:
        home.down()
        # Not where that failed: without its files nobody can take it down later, and its range stays claimed.
        shutil.rmtree(path, ignore_errors=True)
