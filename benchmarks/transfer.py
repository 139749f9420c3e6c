"""A large file up and down, beside the same file over plain HTTP on loopback."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stats
from e2b import Sandbox
from home import Home

SIZE = 100_000_000
SAMPLES = 30


def up_and_down(home: Home, tool: Path) -> list[stats.Figure]:
    """Move 100 MB with curl, through the edge and guestd to the sandbox's disk, and plainly."""
    with tempfile.TemporaryDirectory(prefix="atoll-bench-files-") as directory, plain(tool, directory) as url:
        source = Path(directory) / "source"
        source.write_bytes(b"0123456789abcdef" * (SIZE // 16))
        sandbox = Sandbox.create(
            "base", timeout=900, api_key=home.key, api_url=home.url, sandbox_url=home.url
        )
        try:
            headers = [
                f"E2b-Sandbox-Id: {sandbox.sandbox_id}", "E2b-Sandbox-Port: 49983",
                f"X-Access-Token: {sandbox.connection_config.sandbox_headers['X-Access-Token']}",
            ]  # fmt: skip
            ours_up, raw_up, ours_down, raw_down = [], [], [], []
            for _ in range(SAMPLES):
                ours_up.append(rate(f"{home.url}/files?path=/home/user/large", headers, source, "POST"))
                raw_up.append(rate(f"{url}/large", [], source, "PUT"))
                ours_down.append(rate(f"{home.url}/files?path=/home/user/large", headers))
                raw_down.append(rate(f"{url}/large", []))
        finally:
            sandbox.kill()
    return [figure("100 MB up", ours_up, raw_up), figure("100 MB down", ours_down, raw_down)]


def figure(name: str, ours: list[float], raw: list[float]) -> stats.Figure:
    """Compare two series of rates."""
    ratio = stats.median(ours) / stats.median(raw)
    slowest = [-sample for sample in ours]
    return stats.Figure(
        name=name, unit="MB/s", median=stats.median(ours), p95=-stats.p95(slowest), raw=stats.median(raw),
        raw_p95=-stats.p95([-sample for sample in raw]), target="≥ 0.5 × raw", score=ratio, met=ratio >= 0.5,
        samples=len(ours),
    )  # fmt: skip


def rate(url: str, headers: list[str], source: Path | None = None, method: str = "GET") -> float:
    """Move the file once; return MB per second as curl saw it."""
    words = ["curl", "-sSf", "-o", "/dev/null", "-w", "%{time_total}", "-X", method, url]
    for header in headers:
        words += ["-H", header]
    if source:
        words += ["-H", "Content-Type: application/octet-stream", "-H", "Expect:", "-T", str(source)]
    seconds = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout
    return SIZE / 1e6 / float(seconds)


@contextmanager
def plain(tool: Path, directory: str) -> Iterator[str]:
    """Run the plain server."""
    server = subprocess.Popen([tool, "serve", directory], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        yield f"http://{server.stdout.readline().strip()}"
    finally:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()
