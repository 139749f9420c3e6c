"""Pauses, resumes and forks beside runsc's own checkpoint and restore."""

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import stats
from home import Home
from raw import HOLD, Raw

from atoll import Sandbox

DIRTY_MB = 512
ROUNDS = 5
FORKS = 10
FORK_ROUNDS = 5


def pause_and_resume(home: Home, tool: Path) -> list[stats.Figure]:
    """Pause and resume a program that holds 512 MB; a raw checkpoint is on the disk when it returns, too."""
    pauses, resumes, raw_pauses, raw_resumes = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="atoll-bench-raw-", dir=home.path) as directory:
        raw = Raw(Path(directory), ["/usr/bin/python3", "-c", HOLD, str(DIRTY_MB)])
        sandbox = holding(home, DIRTY_MB)
        try:
            raw.start("dirty000")
            raw.wait_for("dirty000", "/tmp/held")
            for number in range(ROUNDS):
                pauses.append(timed(sandbox.pause))
                resumes.append(timed(sandbox.resume))
                image = Path(directory) / f"image{number}"
                raw_pauses.append(raw.checkpoint(f"dirty{number:03}", image))
                raw_resumes.append(raw.restore(f"dirty{number + 1:03}", image))
        finally:
            raw.close()
            sandbox.kill()
    return [
        compared("pause with 512 MB dirty", pauses, raw_pauses, 1.3, "raw checkpoint --direct"),
        compared("resume with 512 MB dirty", resumes, raw_resumes, 1.3, "raw restore"),
    ]


def forks(home: Home, tool: Path) -> list[stats.Figure]:
    """Fork a sandbox ten times, beside a raw checkpoint and ten restores, some at once."""
    ours, raw_ones = [], []
    with tempfile.TemporaryDirectory(prefix="atoll-bench-raw-", dir=home.path) as directory:
        raw = Raw(Path(directory), ["/usr/bin/python3", "-c", HOLD, "1"])
        sandbox = holding(home, 1)
        try:
            raw.start("origin00")
            raw.wait_for("origin00", "/tmp/held")
            image = Path(directory) / "image"
            raw.checkpoint("origin00", image)
            for number in range(FORK_ROUNDS):
                start = time.perf_counter()
                children = sandbox.fork(FORKS)
                ours.append((time.perf_counter() - start) * 1e3)
                for child in children:
                    assert isinstance(child, Sandbox), child
                    child.kill()
                raw_ones.append(min(restored(raw, image, number, at_once) for at_once in (2, 4)))
        finally:
            raw.close()
            sandbox.kill()
    return [compared(f"fork({FORKS})", ours, raw_ones, 1.2, "ten raw restores")]


def holding(home: Home, megabytes: int) -> Sandbox:
    """Start a sandbox with a program that holds so much."""
    sandbox = Sandbox.create(
        "minimal", timeout=900, cpus=2, memory_mb=1024, api_url=home.url, api_key=home.key
    )
    sandbox.commands.run(["python3", "-c", HOLD, str(megabytes)], background=True, timeout=None)
    while sandbox.commands.run(["test", "-e", "/tmp/held"]).exit_code:
        time.sleep(0.1)
    return sandbox


def restored(raw: Raw, image: Path, number: int, at_once: int) -> float:
    """Restore ten, so many at once; return milliseconds."""
    names = [f"f{number}{at_once}{each:05}" for each in range(FORKS)]
    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda name: raw.restore(name, image), names))
    took = (time.perf_counter() - start) * 1e3
    for name in names:
        raw.remove(name)
    return took


def timed(call: object) -> float:
    """Return milliseconds."""
    assert callable(call)
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def compared(name: str, ours: list[float], raw: list[float], most: float, beside: str) -> stats.Figure:
    """Make a line of a ratio."""
    ratio = statistics.median(ours) / statistics.median(raw)
    return stats.Figure(
        name=name, unit="ms", median=stats.median(ours), p95=stats.p95(ours), raw=stats.median(raw),
        raw_p95=stats.p95(raw), target=f"≤ {most} × {beside}", score=ratio, met=ratio <= most,
        samples=len(ours),
    )  # fmt: skip
