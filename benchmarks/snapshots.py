"""Pauses, resumes and forks beside runsc's own checkpoint and restore."""

import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import stats
from home import Home
from raw import HOLD, Raw

from atoll import Sandbox, Snapshot

DIRTY_MB = 512
ROUNDS = 10
FORKS = 10
FORK_ROUNDS = 10
STILL_ROUNDS = 10
# Holds memory, and writes down each time that it stood still for more than 30 ms.
STAND = HOLD.replace(
    "while True: time.sleep(1000)",
    """
last = time.monotonic()
while True:
    time.sleep(0.002)
    now = time.monotonic()
    if now - last > 0.03:
        print((now - last) * 1e3, file=open("/tmp/stood", "a"))
    last = now
""",
)


def pause_and_resume(home: Home, tool: Path) -> list[stats.Figure]:
    """
    Pause and resume a program that holds 512 MB; a raw checkpoint is on the disk when it returns, too.

    Both are restored when the kernel has the ended machine's memory back; a sandbox also at once, which
    waits for that.
    """
    pauses, resumes, at_once, raw_pauses, raw_resumes = [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="atoll-bench-raw-", dir=home.path) as directory:
        raw = Raw(Path(directory), ["/usr/bin/python3", "-c", HOLD, str(DIRTY_MB)])
        sandbox = holding(home, DIRTY_MB)
        try:
            raw.start("dirty000")
            raw.wait_for("dirty000", "/tmp/held")
            for number in range(ROUNDS):
                pauses.append(timed(sandbox.pause))
                at_once.append(timed(sandbox.resume))
                pauses.append(timed(sandbox.pause))
                home.wait_until_gone(sandbox.id)
                resumes.append(timed(sandbox.resume))
                image = Path(directory) / f"image{number}"
                raw_pauses.append(raw.checkpoint(f"dirty{number:03}", image))
                raw_resumes.append(raw.restore(f"dirty{number + 1:03}", image))
        finally:
            raw.close()
            sandbox.kill()
    return [
        compared("pause with 512 MB dirty", pauses, raw_pauses, 1.3, "raw checkpoint, synced"),
        compared("resume with 512 MB dirty", resumes, raw_resumes, 1.3, "raw restore"),
        replace(
            compared("the same, right after its pause", at_once, raw_resumes, 1.3, "raw restore"),
            target="none set",
            met=True,
        ),
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


def standing_still(home: Home, tool: Path) -> list[stats.Figure]:
    """Take snapshots of a program that goes on, which itself measures how long it did not."""
    ours, raw_ones = [], []
    with tempfile.TemporaryDirectory(prefix="atoll-bench-raw-", dir=home.path) as directory:
        raw = Raw(Path(directory), ["/usr/bin/python3", "-c", STAND, str(DIRTY_MB)])
        sandbox = holding(home, DIRTY_MB, STAND)
        try:
            raw.start("dirty000")
            raw.wait_for("dirty000", "/tmp/held")
            for number in range(STILL_ROUNDS):
                sandbox.commands.run(["rm", "-f", "/tmp/stood"])
                snapshot = sandbox.snapshot()
                ours.append(longest(sandbox.commands.run(["cat", "/tmp/stood"]).stdout))
                Snapshot.delete(snapshot.id, api_url=home.url, api_key=home.key)
                raw.output("dirty000", "rm", "-f", "/tmp/stood")
                raw.checkpoint("dirty000", Path(directory) / f"image{number}", leave_running=True)
                raw_ones.append(longest(raw.output("dirty000", "cat", "/tmp/stood")))
                shutil.rmtree(Path(directory) / f"image{number}")
        finally:
            raw.close()
            sandbox.kill()
    name = "a snapshot with 512 MB dirty, guest stands still"
    return [compared(name, ours, raw_ones, 1.1, "raw --leave-running")]


def longest(lines: str) -> float:
    """Return the longest time of those that were written down."""
    return max(float(line) for line in lines.split())


def holding(home: Home, megabytes: int, program: str = HOLD) -> Sandbox:
    """Start a sandbox with a program that holds so much."""
    sandbox = Sandbox.create(
        "minimal", timeout=900, cpus=2, memory_mb=1024, api_url=home.url, api_key=home.key
    )
    sandbox.commands.run(["python3", "-c", program, str(megabytes)], background=True, timeout=None)
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
