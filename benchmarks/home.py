"""A server of our own for one benchmark run, and what belongs to one of its sandboxes."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from atoll.server.host.ports import free_port

ATOLL = Path(sys.executable).parent / "atoll"
CACHE = Path(os.environ.get("ATOLL_CACHE_DIR") or Path.home() / ".cache" / "atoll")


@dataclass(frozen=True, kw_only=True)
class Home:
    """
    A running server.

    Attributes:
        path: its home.
        url: where it answers.
        key: an API key.
    """

    path: Path
    url: str
    key: str

    def processes(self, sandbox_id: str) -> list[psutil.Process]:
        """Find every process of the host that belongs to a sandbox: its id is in their arguments."""
        found = [process for process in psutil.process_iter(["cmdline"])
                 if any(sandbox_id in word for word in process.info["cmdline"] or ())]  # fmt: skip
        stubs = [child for process in found for child in process.children(recursive=True)]
        return list({process.pid: process for process in found + stubs}.values())

    def wait_until_gone(self, sandbox_id: str) -> None:
        """
        Wait until no process of the host belongs to a sandbox, nor a control group.

        One that ends has no arguments any more long before the kernel has its memory back.
        """
        end = time.monotonic() + 30
        groups = Path("/sys/fs/cgroup")
        while self.processes(sandbox_id) or any(groups.glob(f"**/atoll-*/{sandbox_id}")):
            assert time.monotonic() < end, f"processes of {sandbox_id} stay"
            time.sleep(0.01)

    def pss(self, sandbox_id: str) -> int:
        """Sum the proportional set sizes of a sandbox's processes, in bytes."""
        return sum(pss_of(process.pid) for process in self.processes(sandbox_id))

    def cpu_nanoseconds(self, sandbox_id: str) -> int:
        """Read the processor time of a sandbox's control group, which counts finer than processes do."""
        for pattern in (f"cpuacct/atoll-*/{sandbox_id}/cpuacct.usage", f"**/atoll-*/{sandbox_id}/cpu.stat"):
            for path in Path("/sys/fs/cgroup").glob(pattern):
                words = path.read_text().split()
                return int(words[0]) if len(words) == 1 else int(words[1]) * 1000
        raise FileNotFoundError(f"no control group of {sandbox_id}")


def pss_of(pid: int) -> int:
    """Read a process's proportional set size, in bytes; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


@contextmanager
def running_home(**settings: str) -> Iterator[Home]:
    """
    Start a server in a home of its own, and take all of it down afterwards.

    Args:
        settings: as the environment has them; without any, creates boot, since no machine waits.
    """
    path = Path(tempfile.mkdtemp(prefix="atoll-bench-"))
    env = {
        **os.environ,
        # What the server can do is measured, not what one key may do.
        "ATOLL_API_RATE_REQUESTS": "0",
        "ATOLL_CACHE_DIR": str(CACHE),
        "ATOLL_TEMPLATES_BUILT_AT_START": "base,minimal",
        "ATOLL_POOL_MEMORY_BYTES": "0",
        **settings,
    }
    before: dict[str, str | None] = {}
    listen = f"127.0.0.1:{free_port()}"
    try:
        subprocess.run([ATOLL, "up", "--home", path, "--listen", listen, "--detach"], check=True, env=env)
        lines = subprocess.run(
            [ATOLL, "env", "--home", path], check=True, capture_output=True, text=True
        ).stdout
        words = dict(word.split("=", 1) for word in shlex.split(lines) if "=" in word)
        before = {name: os.environ.get(name) for name in words}
        os.environ.update(words)
        yield Home(path=path, url=words["ATOLL_API_URL"], key=words["ATOLL_API_KEY"])
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        if subprocess.run([ATOLL, "down", "--home", path], check=False, env=env).returncode == 0:
            shutil.rmtree(path, ignore_errors=True)
        else:
            # What still lives there needs it, and so does who looks for the reason.
            print(f"{path} is kept: 'atoll down' failed", file=sys.stderr)
