"""Three hundred sandboxes alive at once: each answers, and while they idle they cost next to nothing."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import stats
from home import Home, pss_of, running_home

from atoll import Sandbox

ALIVE = 300
AT_ONCE = 4
SETTLE_SECONDS = 10
IDLE_SECONDS = 30


def alive(home: Home, tool: Path) -> list[stats.Figure]:
    """Create them, ask each, let them idle; what server and edge burn meanwhile counts too."""
    with running_home(ATOLL_SANDBOXES_MAX_SANDBOXES="1000") as full, ThreadPoolExecutor(AT_ONCE) as threads:
        start = time.perf_counter()
        sandboxes = list(threads.map(lambda _: create(full), range(ALIVE)))
        took = time.perf_counter() - start
        answers = sum(threads.map(answers_now, sandboxes))
        time.sleep(SETTLE_SECONDS)
        before, start = machine_seconds(full, sandboxes), time.monotonic()
        time.sleep(IDLE_SECONDS)
        span = time.monotonic() - start
        burnt = (machine_seconds(full, sandboxes) - before) / span / (os.cpu_count() or 1)
        memory = [size / 1e6 for size in sizes(sandboxes)]
        still = sum(threads.map(answers_now, sandboxes))
    return [
        figure(f"creates on the way to {ALIVE} alive, {AT_ONCE} at once", "1/s", ALIVE / took, "none set",
               met=True),
        figure("of them, answer before and after idling", "", min(answers, still), f"= {ALIVE}",
               answers == still == ALIVE),
        stats.Figure(
            name=f"idle, one of {ALIVE}, PSS of all its processes", unit="MB", median=stats.median(memory),
            p95=stats.p95(memory), raw=None, raw_p95=None, target="≤ 30 MB", score=stats.median(memory),
            met=stats.median(memory) <= 30, samples=len(memory),
        ),
        figure(f"all {ALIVE} idle, with server and edge, of the machine's processors", "%", burnt * 100,
               "≤ 2 %", burnt <= 0.02),
    ]  # fmt: skip


def create(home: Home) -> Sandbox:
    """Create a small one."""
    return Sandbox.create("minimal", timeout=1800, api_url=home.url, api_key=home.key)


def answers_now(sandbox: Sandbox) -> bool:
    """Say whether it runs a command."""
    return sandbox.commands.run(["/bin/echo", "hi"]).stdout == "hi\n"


def machine_seconds(home: Home, sandboxes: list[Sandbox]) -> float:
    """Sum the processor time of all sandboxes, and of the server's own processes."""
    ours = sum(home.cpu_nanoseconds(sandbox.id) for sandbox in sandboxes) / 1e9
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if str(home.path) in " ".join(words) and any(
            w.endswith(("atoll-edge", "atoll.server.main")) for w in words
        ):
            times = process.cpu_times()
            ours += times.user + times.system
    return ours


def sizes(sandboxes: list[Sandbox]) -> list[int]:
    """Read what each takes, in bytes: all processes with its id among their arguments, and their children."""
    wanted = {sandbox.id: 0 for sandbox in sandboxes}
    owners: dict[int, str] = {}
    for process in psutil.process_iter(["cmdline", "pid", "ppid"]):
        line = " ".join(process.info["cmdline"] or ())
        owner = next((name for name in wanted if name in line), owners.get(process.info["ppid"]))
        if owner is not None:
            owners[process.info["pid"]] = owner
            wanted[owner] += pss_of(process.info["pid"])
    return list(wanted.values())


def figure(name: str, unit: str, value: float, target: str, met: bool) -> stats.Figure:
    """Make a line of one value."""
    return stats.Figure(
        name=name, unit=unit, median=value, p95=value, raw=None, raw_p95=None, target=target, score=value,
        met=met, samples=1,
    )  # fmt: skip
