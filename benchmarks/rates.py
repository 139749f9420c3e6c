"""Exec round trips, idle costs, API requests per second."""

import json
import subprocess
import time
from pathlib import Path

import stats
from e2b import Sandbox
from home import Home, pss_of

# So many share the pages of the programs, as on a machine in use.
IDLE_SANDBOXES = 20
IDLE_SECONDS = 30
API_REQUESTS = 4000
API_CLIENTS = 8

# The same spawn, inside: fork, exec, wait, and nothing of the shell's own start.
INSIDE = """
import os, time
for _ in range(%d):
    start = time.perf_counter()
    os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)
    print((time.perf_counter() - start) * 1e3)
"""
# Ours and the raw ones by turns, so many of each at a time; the first of each turn are left out.
EXEC_TURNS, EXEC_SAMPLES, EXEC_FIRST = 6, 10, 3


def create(home: Home, template: str = "minimal") -> Sandbox:
    """Create a sandbox through the released client."""
    return Sandbox.create(template, timeout=1800, api_key=home.key, api_url=home.url, sandbox_url=home.url)


def exec_round_trip(home: Home, tool: Path) -> list[stats.Figure]:
    """Start /bin/true through the edge and wait for its end, on one kept connection."""
    sandbox = create(home)
    message = json.dumps({"process": {"cmd": "/bin/true"}, "stdin": False}).encode()
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    count = EXEC_FIRST + EXEC_SAMPLES
    words = [
        tool, "call", f"{home.url}/process.Process/Start", str(count),
        f"E2b-Sandbox-Id={sandbox.sandbox_id}", "E2b-Sandbox-Port=49983",
        "Content-Type=application/connect+json", "Connect-Protocol-Version=1",
        f"X-Access-Token={sandbox.connection_config.sandbox_headers['X-Access-Token']}",
    ]  # fmt: skip
    ours: list[float] = []
    raw: list[float] = []
    try:
        sandbox.files.write("/tmp/inside.py", INSIDE % count)
        for _ in range(EXEC_TURNS):
            done = subprocess.run(words, input=body, check=True, capture_output=True, timeout=60)
            assert b'"exited":true' in done.stderr.replace(b" ", b""), done.stderr
            ours += [float(line) for line in done.stdout.split()][EXEC_FIRST:]
            inside = sandbox.commands.run("python3 /tmp/inside.py").stdout
            raw += [float(line) for line in inside.split()][EXEC_FIRST:]
    finally:
        sandbox.kill()
    more = stats.median(ours) - stats.median(raw)
    return [
        stats.Figure(
            name="exec of true through the edge", unit="ms", median=stats.median(ours), p95=stats.p95(ours),
            raw=stats.median(raw), raw_p95=stats.p95(raw), target="≤ raw + 5 ms", score=more, met=more <= 5,
            samples=len(ours),
        )
    ]  # fmt: skip


def idle_costs(home: Home, tool: Path) -> list[stats.Figure]:
    """Let some sandboxes sit; read what they hold and what they burn."""
    sandboxes = [create(home) for _ in range(IDLE_SANDBOXES)]
    try:
        time.sleep(5)
        before = [home.cpu_nanoseconds(sandbox.sandbox_id) for sandbox in sandboxes]
        start = time.monotonic()
        time.sleep(IDLE_SECONDS)
        span = time.monotonic() - start
        after = [home.cpu_nanoseconds(sandbox.sandbox_id) for sandbox in sandboxes]
        memory = [home.pss(sandbox.sandbox_id) / 1e6 for sandbox in sandboxes]
    finally:
        for sandbox in sandboxes:
            sandbox.kill()
    burnt = [(b - a) / 1e6 / span for a, b in zip(before, after, strict=True)]
    return [
        stats.Figure(
            name="idle sandbox, PSS of all its processes", unit="MB", median=stats.median(memory),
            p95=stats.p95(memory), raw=None, raw_p95=None, target="≤ 30 MB", score=stats.median(memory),
            met=stats.median(memory) <= 30, samples=len(memory),
        ),
        stats.Figure(
            name="idle sandbox, processor time per second", unit="ms/s", median=stats.median(burnt),
            p95=stats.p95(burnt), raw=None, raw_p95=None, target="≤ 0.1 ms/s", score=stats.median(burnt),
            met=stats.median(burnt) <= 0.1, samples=len(burnt),
        ),
    ]  # fmt: skip


def api_requests(home: Home, tool: Path) -> list[stats.Figure]:
    """Ask for one sandbox again and again, with eight clients."""
    sandbox = create(home)
    try:
        url = f"{home.url}/sandboxes/{sandbox.sandbox_id}"
        rates = [load(tool, url, home.key) for _ in range(5)]
    finally:
        sandbox.kill()
    return [
        stats.Figure(
            name=f"GET sandbox, {API_CLIENTS} clients", unit="req/s", median=stats.median(rates),
            p95=min(rates), raw=None, raw_p95=None, target="none set", score=stats.median(rates), met=True,
            samples=len(rates),
        )
    ]  # fmt: skip


def load(tool: Path, url: str, key: str) -> float:
    """Run the load once; return requests per second."""
    words = [tool, "load", url, str(API_REQUESTS), str(API_CLIENTS), f"X-API-Key={key}"]
    return float(subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout)


__all__ = ["api_requests", "exec_round_trip", "idle_costs", "pss_of"]
