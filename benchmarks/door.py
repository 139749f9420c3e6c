"""The edge beside a direct connection to the sandbox: time per request, and bytes per second."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import stats
from e2b import Sandbox
from home import Home

TURNS, REQUESTS, FIRST = 6, 60, 10
SIZE = 100_000_000
TRANSFERS = 10
DAEMON = 49983


def edge_and_direct(home: Home, tool: Path) -> list[stats.Figure]:
    """Ask guestd the same by both ways, in turns, from this machine."""
    sandbox = Sandbox.create("minimal", timeout=900, api_key=home.key, api_url=home.url, sandbox_url=home.url)
    try:
        direct = f"http://{address_of(home, sandbox.sandbox_id)}:{DAEMON}"
        token = sandbox.connection_config.sandbox_headers["X-Access-Token"]
        headers = [
            f"E2b-Sandbox-Id={sandbox.sandbox_id}",
            f"E2b-Sandbox-Port={DAEMON}",
            f"X-Access-Token={token}",
        ]
        sandbox.files.write("/tmp/large", b"0123456789abcdef" * (SIZE // 16))
        return [requests(tool, home.url, direct, headers), transfers(home.url, direct, headers)]
    finally:
        sandbox.kill()


def requests(tool: Path, edge: str, direct: str, headers: list[str]) -> stats.Figure:
    """Time small requests."""
    ours: list[float] = []
    raw: list[float] = []
    for _ in range(TURNS):
        for base, samples in ((edge, ours), (direct, raw)):
            words = [tool, "call", f"{base}/health", str(REQUESTS), *headers]
            done = subprocess.run(words, input=b"", check=True, capture_output=True, timeout=60)
            samples.extend([float(line) for line in done.stdout.split()][FIRST:])
    more = stats.median(ours) - stats.median(raw)
    return stats.Figure(
        name="request through the edge", unit="ms", median=stats.median(ours), p95=stats.p95(ours),
        raw=stats.median(raw), raw_p95=stats.p95(raw), target="≤ direct + 1 ms", score=more, met=more <= 1,
        samples=len(ours),
    )  # fmt: skip


def transfers(edge: str, direct: str, headers: list[str]) -> stats.Figure:
    """Download a large file."""
    ours: list[float] = []
    raw: list[float] = []
    for _ in range(TRANSFERS):
        for base, samples in ((edge, ours), (direct, raw)):
            words = ["curl", "-sSf", "-o", "/dev/null", "-w", "%{time_total}"]
            for header in headers:
                words += ["-H", header.replace("=", ": ", 1)]
            words.append(f"{base}/files?path=/tmp/large")
            done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
            samples.append(SIZE / 1e6 / float(done.stdout))
    ratio = stats.median(ours) / stats.median(raw)
    return stats.Figure(
        name="100 MB through the edge", unit="MB/s", median=stats.median(ours), p95=slowest(ours),
        raw=stats.median(raw), raw_p95=slowest(raw), target="≥ 0.8 × direct", score=ratio, met=ratio >= 0.8,
        samples=len(ours),
    )  # fmt: skip


def slowest(rates: list[float]) -> float:
    """Return the rate that 95 of 100 samples reach."""
    return -stats.p95([-one for one in rates])


def address_of(home: Home, sandbox_id: str) -> str:
    """Read a sandbox's private address, which no answer of the API tells."""
    with closing(sqlite3.connect(f"file:{home.path}/atoll.db?mode=ro", uri=True)) as rows:
        (address,) = rows.execute("select address from sandboxes where id = ?", (sandbox_id,)).fetchone()
    return str(address)
