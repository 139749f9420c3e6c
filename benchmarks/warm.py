"""Warm creates: a machine that waits is claimed; without one, the warm template is restored."""

import contextlib
import http.client
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import e2b
import httpx
import stats
from cold import raw_bundle, raw_run
from home import Home, running_home
from raw import Raw

from atoll import Pool, Sandbox

SAMPLES = 30
BURST = 100
# So many at once bring the most restores a second on two cores; more only make each slower.
AT_ONCE = 4
STEADY_SECONDS = 60
ECHO = ["/bin/echo", "hi"]
CREATE = b'{"templateID": "minimal", "timeout": 120}'


def warm_creates(home: Home, tool: Path) -> list[stats.Figure]:
    """Create through HTTP, and create and run, each time with a machine that waits."""
    creates, commands, raw = [], [], []
    with (
        pooled_home(least=4) as pooled,
        contextlib.closing(http.client.HTTPConnection(urlsplit(pooled.url).netloc, timeout=60)) as client,
        tempfile.TemporaryDirectory(prefix="atoll-bench-raw-") as directory,
    ):
        bundle = raw_bundle(Path(directory))
        echo_only(bundle)
        for number in range(SAMPLES + 2):
            wait_until_ready(pooled, 4)
            start = time.perf_counter()
            answer = called(client, "POST", "/sandboxes", pooled.key, CREATE)
            creates.append((time.perf_counter() - start) * 1e3)
            called(client, "DELETE", f"/sandboxes/{json.loads(answer)['sandboxID']}", pooled.key)
            wait_until_ready(pooled, 4)
            start = time.perf_counter()
            with Sandbox.create("minimal", api_url=pooled.url, api_key=pooled.key) as sandbox:
                output = sandbox.commands.run(ECHO).stdout
                commands.append((time.perf_counter() - start) * 1e3)
            assert output == "hi\n"
            raw.append(raw_run(bundle, Path(directory), number))
        subprocess.run(["umount", f"{directory}/state/null-netns"], check=False)
    creates, commands, raw = creates[2:], commands[2:], raw[2:]
    ratio = stats.median(commands) / stats.median(raw)
    return [
        stats.Figure(
            name="warm create, call → answer", unit="ms", median=stats.median(creates),
            p95=stats.p95(creates), raw=None, raw_p95=None, target="≤ 6 ms, p95 ≤ 12 ms",
            score=stats.median(creates), met=stats.median(creates) <= 6 and stats.p95(creates) <= 12,
            samples=len(creates),
        ),
        stats.Figure(
            name="warm create → first command", unit="ms", median=stats.median(commands),
            p95=stats.p95(commands), raw=stats.median(raw), raw_p95=stats.p95(raw), target="≤ 0.3 × raw run",
            score=ratio, met=ratio <= 0.3, samples=len(commands),
        ),
    ]  # fmt: skip


def called(client: http.client.HTTPConnection, method: str, path: str, key: str, body: bytes = b"") -> bytes:
    """Call the API with as little of a client as there is: what a client takes of a processor is its own."""
    client.request(method, path, body, {"X-API-Key": key, "Content-Type": "application/json"})
    answer = client.getresponse()
    content = answer.read()
    assert answer.status < 300, content
    return content


def burst(home: Home, tool: Path) -> list[stats.Figure]:
    """Create as many at once as wait, and run a command in each."""
    figures = []
    with pooled_home(least=BURST) as pooled:
        for name, most, once in (("our own exec", 1.5, own_true), ("E2B's commands.run", 2.5, e2b_true)):
            wait_until_ready(pooled, BURST)
            with ThreadPoolExecutor(BURST) as threads:
                start = time.perf_counter()
                ends = list(threads.map(lambda _, once=once: once(pooled), range(BURST)))
                took = max(ends) - start
            kill_all(pooled)
            figures.append(
                stats.Figure(
                    name=f"burst of {BURST} creates, true run in each by {name}", unit="s", median=took,
                    p95=took, raw=None, raw_p95=None, target=f"≤ {most} s", score=took, met=took <= most,
                    samples=BURST,
                )
            )  # fmt: skip
    return figures


def own_true(home: Home) -> float:
    """Create one and run `true` in it with our own client; return when that was done."""
    sandbox = Sandbox.create("minimal", api_url=home.url, api_key=home.key)
    assert sandbox.commands.run(["/bin/true"]).exit_code == 0
    return time.perf_counter()


def e2b_true(home: Home) -> float:
    """Do the same with the released client, whose commands are a login shell's."""
    sandbox = e2b.Sandbox.create("minimal", api_key=home.key, api_url=home.url, sandbox_url=home.url)
    sandbox.commands.run("true")
    return time.perf_counter()


def restores(home: Home, tool: Path) -> list[stats.Figure]:
    """Create without a pool from a warm template, one by one and as many as go, beside runsc's restore."""
    ours, raw = [], []
    with (
        warmed_home() as warmed,
        httpx.Client(base_url=warmed.url, headers={"X-API-Key": warmed.key}, timeout=60) as client,
        tempfile.TemporaryDirectory(prefix="atoll-bench-raw-") as directory,
    ):
        bare = Raw(Path(directory), ["/usr/bin/python3", "-c", "import time; time.sleep(10000)"])
        try:
            bare.start("origin00")
            time.sleep(1)
            image = Path(directory) / "image"
            bare.checkpoint("origin00", image)
            for number in range(SAMPLES + 2):
                start = time.perf_counter()
                answer = client.post("/sandboxes", json={"templateID": "minimal", "timeout": 120})
                ours.append((time.perf_counter() - start) * 1e3)
                client.delete(f"/sandboxes/{answer.raise_for_status().json()['sandboxID']}")
                raw.append(bare.restore(f"raw{number:05}", image))
                bare.remove(f"raw{number:05}")
            our_rate = rate(lambda _: create_and_kill(client), STEADY_SECONDS)
            raw_rate = rate(lambda number: restore_and_remove(bare, f"r{number:07}", image), STEADY_SECONDS)
        finally:
            bare.close()
    ours, raw = ours[2:], raw[2:]
    ratio = stats.median(ours) / stats.median(raw)
    return [
        stats.Figure(
            name="create without pool, by restore", unit="ms", median=stats.median(ours),
            p95=stats.p95(ours), raw=stats.median(raw), raw_p95=stats.p95(raw),
            target="≤ 1.2 × raw restore", score=ratio, met=ratio <= 1.2, samples=len(ours),
        ),
        stats.Figure(
            name=f"creates and kills without pool for {STEADY_SECONDS} s, {AT_ONCE} at once", unit="1/s",
            median=our_rate, p95=our_rate, raw=raw_rate, raw_p95=raw_rate, target="≥ 0.8 × raw",
            score=our_rate / raw_rate, met=our_rate >= 0.8 * raw_rate, samples=1,
        ),
    ]  # fmt: skip


def create_and_kill(client: httpx.Client) -> None:
    """Do both, through HTTP."""
    answer = client.post("/sandboxes", json={"templateID": "minimal", "timeout": 120}).raise_for_status()
    client.delete(f"/sandboxes/{answer.json()['sandboxID']}").raise_for_status()


def restore_and_remove(bare: Raw, name: str, image: Path) -> None:
    """Do both, with runsc itself."""
    bare.restore(name, image)
    bare.remove(name)


def rate(once: Callable[[int], None], seconds: float) -> float:
    """Do something again and again, some at once, for so long; return how often a second."""
    end = time.monotonic() + seconds
    counts = [0] * AT_ONCE

    def work(which: int) -> None:
        while time.monotonic() < end:
            once(which * 1_000_000 + counts[which])
            counts[which] += 1

    start = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(work, range(AT_ONCE)))
    return sum(counts) / (time.monotonic() - start)


def echo_only(bundle: Path) -> None:
    """Have the raw run do the same command."""
    config = bundle / "config.json"
    config.write_text(config.read_text().replace('"/bin/bash", "-l", "-c", "echo hi"', '"/bin/echo", "hi"'))


@contextmanager
def pooled_home(*, least: int) -> Iterator[Home]:
    """Start a server of which so many machines of the minimal template wait."""
    with running_home(
        ATOLL_POOL_TEMPLATES="minimal",
        ATOLL_POOL_LEAST=str(least),
        ATOLL_POOL_MEMORY_BYTES=str(8 << 30),
        ATOLL_SANDBOXES_MAX_SANDBOXES="1000",
    ) as home:
        wait_until_ready(home, least)
        yield home


@contextmanager
def warmed_home() -> Iterator[Home]:
    """Start a server whose minimal template is warm, and of which no machine waits."""
    with running_home(
        ATOLL_POOL_TEMPLATES="minimal", ATOLL_POOL_MEMORY_BYTES=str(8 << 30), ATOLL_POOL_MOST="0"
    ) as home:
        while not list(home.path.glob("checkpoints/warm-minimal-*")):
            time.sleep(0.1)
        yield home


def wait_until_ready(home: Home, number: int) -> None:
    """Return when so many wait."""
    while True:
        found = Pool.list(api_url=home.url, api_key=home.key)
        if sum(one.ready for one in found if one.template == "minimal") >= number:
            return
        time.sleep(0.05)


def kill_all(home: Home) -> None:
    """End every sandbox."""
    for info in Sandbox.list(api_url=home.url, api_key=home.key):
        Sandbox.connect(info.id, api_url=home.url, api_key=home.key).kill()
