"""run_code("1+1") through the released client, beside the same cell for the same kernel from inside."""

import asyncio
import time
from pathlib import Path

import stats
from e2b_code_interpreter import Sandbox
from home import CACHE, Home

from atoll.server.images.library import TemplateLibrary

TEMPLATE = "code-interpreter-v1"
# By turns, so many of each at a time; the first of each turn are left out.
TURNS, SAMPLES, FIRST = 6, 15, 3

# As plain as it gets: Jupyter's own client, on a kept connection, until the kernel has answered and is idle.
INSIDE = """
import glob, sys, time
from jupyter_client.blocking.client import BlockingKernelClient
for path in glob.glob("/proc/[0-9]*/cmdline"):
    words = open(path).read().split("\\0")
    if "ipykernel_launcher" in words:
        file = words[words.index("-f") + 1]
client = BlockingKernelClient(connection_file=file)
client.load_connection_file()
client.start_channels(stdin=False, hb=False)
client.wait_for_ready(timeout=20)
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    message = client.execute("1+1")
    seen = ""
    while True:
        answer = client.get_iopub_msg(timeout=20)
        if answer["parent_header"].get("msg_id") != message:
            continue
        if answer["msg_type"] == "execute_result":
            seen = answer["content"]["data"]["text/plain"]
        if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
            break
    client.get_shell_msg(timeout=20)
    print((time.perf_counter() - start) * 1e3)
    assert seen == "2"
"""


# The server ends and its kernels with it; then a kernel is started as it starts one.
ALONE = """
pkill -KILL -f '^/bin/bash -l -c while'
pkill -TERM -f -- '-m interpreter$'
while pgrep -f 'ipykernel_launcher|-m interpreter$' >/dev/null; do sleep 0.1; done
cd /home/user
setsid /usr/bin/python3 -m ipykernel_launcher -f /tmp/kernel.json \\
    --IPKernelApp.extra_extensions=atoll_display </dev/null >/tmp/kernel.log 2>&1 &
while [ ! -e /tmp/kernel.json ]; do sleep 0.1; done
"""
WINDOWS, WINDOW_SECONDS, SETTLE_SECONDS = 6, 10, 10


def warm_cell(home: Home, tool: Path) -> list[stats.Figure]:
    """Run a cell in a sandbox whose kernel has run some."""
    asyncio.run(TemplateLibrary(CACHE / "templates").ensure(TEMPLATE))
    sandbox = Sandbox.create(TEMPLATE, timeout=1800, api_key=home.key, api_url=home.url, sandbox_url=home.url)
    ours: list[float] = []
    raw: list[float] = []
    count = FIRST + SAMPLES
    try:
        sandbox.files.write("/tmp/inside.py", INSIDE)
        for _ in range(TURNS):
            ours += _cells(sandbox, count)[FIRST:]
            inside = sandbox.commands.run(
                f"/opt/interpreter/venv/bin/python -I /tmp/inside.py {count}"
            ).stdout
            raw += [float(line) for line in inside.split()][FIRST:]
    finally:
        sandbox.kill()
    more = stats.median(ours) - stats.median(raw)
    return [
        stats.Figure(
            name='run_code("1+1"), warm', unit="ms", median=stats.median(ours), p95=stats.p95(ours),
            raw=stats.median(raw), raw_p95=stats.p95(raw), target="≤ raw + 8 ms", score=more, met=more <= 8,
            samples=len(ours),
        )
    ]  # fmt: skip


def _cells(sandbox: Sandbox, count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        execution = sandbox.run_code("1+1")
        times.append((time.perf_counter() - start) * 1e3)
        assert execution.text == "2"
    return times


def idle_kernel(home: Home, tool: Path) -> list[stats.Figure]:
    """Let a sandbox idle whose kernel has run a cell, and one in which the bare kernel is alone."""
    ours, raw = (
        Sandbox.create(TEMPLATE, timeout=1800, api_key=home.key, api_url=home.url, sandbox_url=home.url)
        for _ in range(2)
    )
    burnt: dict[str, list[float]] = {ours.sandbox_id: [], raw.sandbox_id: []}
    try:
        assert ours.run_code("1+1").text == "2"
        # From a file: a shell that has all this as an argument would find itself.
        raw.files.write("/tmp/alone", ALONE)
        raw.commands.run("bash /tmp/alone", user="root", timeout=60)
        time.sleep(SETTLE_SECONDS)
        for _ in range(WINDOWS):
            before = {one: home.cpu_nanoseconds(one) for one in burnt}
            time.sleep(WINDOW_SECONDS)
            for one, samples in burnt.items():
                samples.append((home.cpu_nanoseconds(one) - before[one]) / 1e6 / WINDOW_SECONDS)
    finally:
        ours.kill()
        raw.kill()
    mine, bare = burnt[ours.sandbox_id], burnt[raw.sandbox_id]
    ratio = stats.median(mine) / stats.median(bare)
    return [
        stats.Figure(
            name="idle sandbox with a kernel, processor time per second", unit="ms/s",
            median=stats.median(mine), p95=stats.p95(mine), raw=stats.median(bare), raw_p95=stats.p95(bare),
            target="≤ 1.0 × raw kernel", score=ratio, met=ratio <= 1.0, samples=WINDOWS,
        )
    ]  # fmt: skip
