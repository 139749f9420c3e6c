"""Many commands that stream at once through one server: every byte arrives, and memory stays bounded."""

import hashlib
import json
import subprocess
import threading
import time
from pathlib import Path

import psutil
import stats
from e2b import Sandbox
from home import Home

SANDBOXES, EACH = 20, 25
LINES = 60_000
# All of them are open before the first one prints: whoever opens the gate to read waits for one that writes.
COMMAND = f"cat /tmp/gate; exec seq 1 {LINES}"
# For a stream, beside what the server needs without any: buffers of both directions and the clients' answers.
MOST_PER_STREAM = 256 << 10


def streams(home: Home, tool: Path) -> list[stats.Figure]:
    """Check the checksum of each stream; measure what edge and server hold meanwhile."""
    wanted = hashlib.sha256(b"".join(b"%d\n" % number for number in range(1, LINES + 1))).hexdigest()
    sandboxes = [
        Sandbox.create("minimal", timeout=900, api_key=home.key, api_url=home.url, sandbox_url=home.url)
        for _ in range(SANDBOXES)
    ]
    try:
        for sandbox in sandboxes:
            sandbox.commands.run("mkfifo /tmp/gate")
        with Memory(home) as memory:
            clients = [client(home, tool, sandbox) for sandbox in sandboxes]
            while sum(len(sandbox.commands.list()) for sandbox in sandboxes) < SANDBOXES * EACH:
                time.sleep(0.5)
            start = time.monotonic()
            for sandbox in sandboxes:
                sandbox.commands.run("echo -n > /tmp/gate")
            sums = [line for each in clients for line in output(each)]
            seconds = time.monotonic() - start
    finally:
        for sandbox in sandboxes:
            sandbox.kill()
    whole = sums.count(wanted)
    size = SANDBOXES * EACH * len("".join(f"{number}\n" for number in range(1, LINES + 1))) / 1e6
    most = SANDBOXES * EACH * MOST_PER_STREAM / 1e6
    grown = (memory.most - memory.first) / 1e6
    return [
        figure("streams that arrived whole, of 500 at once", "", whole, f"= {SANDBOXES * EACH}",
               whole == len(sums) == SANDBOXES * EACH),
        figure("their bytes", "MB/s", size / seconds, "none set", met=True),
        figure("memory of edge and server for them", "MB", grown, f"≤ {most:.0f} MB", grown <= most),
    ]  # fmt: skip


def client(home: Home, tool: Path, sandbox: Sandbox) -> "subprocess.Popen[bytes]":
    """Start the clients of one sandbox's commands."""
    message = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", COMMAND]}, "stdin": False}).encode()
    words = [
        tool, "streams", f"{home.url}/process.Process/Start", str(EACH),
        f"E2b-Sandbox-Id={sandbox.sandbox_id}", "E2b-Sandbox-Port=49983",
        "Content-Type=application/connect+json", "Connect-Protocol-Version=1",
        f"X-Access-Token={sandbox.connection_config.sandbox_headers['X-Access-Token']}",
    ]  # fmt: skip
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    with process.stdin:
        process.stdin.write(b"\0" + len(message).to_bytes(4, "big") + message)
    return process


def output(process: "subprocess.Popen[bytes]") -> list[str]:
    """Wait for the clients of one sandbox; return the checksums of what they got."""
    with process:
        assert process.stdout
        return process.stdout.read().decode().split()


def figure(name: str, unit: str, value: float, target: str, met: bool) -> stats.Figure:
    """Make a line of one value."""
    return stats.Figure(
        name=name, unit=unit, median=value, p95=value, raw=None, raw_p95=None, target=target, score=value,
        met=met, samples=1,
    )  # fmt: skip


class Memory:
    """The most that edge and server held together, looked at ten times a second."""

    def __init__(self, home: Home) -> None:
        """
        Args:
            home: whose server and edge.
        """
        self._processes = [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(home.path) in " ".join(process.info["cmdline"] or ())
            and any(word.endswith(("atoll-edge", "atoll.server.main")) for word in process.info["cmdline"])
        ]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.first = self.most = self._now()

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _now(self) -> int:
        return sum(process.memory_info().rss for process in self._processes)

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            self.most = max(self.most, self._now())
