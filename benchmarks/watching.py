"""How long after a file appeared inside the client of a watch hears of it."""

import asyncio
import time
from pathlib import Path

import stats
from e2b import AsyncSandbox, FilesystemEvent
from home import Home

FILES = 60
# The name of each file is the time of its making; inside and outside it is the same clock.
MAKER = f"""
import time
for _ in range({FILES}):
    time.sleep(0.05)
    open("/tmp/watched/%.6f" % time.time(), "w").close()
"""


def events(home: Home, tool: Path) -> list[stats.Figure]:
    """Watch a directory in which a program makes files."""
    late = asyncio.run(_lateness(home))
    return [
        stats.Figure(
            name="watch event", unit="ms", median=stats.median(late), p95=stats.p95(late), raw=None,
            raw_p95=None, target="≤ 50 ms", score=stats.median(late), met=stats.median(late) <= 50,
            samples=len(late),
        )
    ]  # fmt: skip


async def _lateness(home: Home) -> list[float]:
    late: dict[str, float] = {}
    all_heard = asyncio.Event()
    sandbox = await AsyncSandbox.create(
        "minimal", timeout=600, api_key=home.key, api_url=home.url, sandbox_url=home.url
    )

    def heard(event: FilesystemEvent) -> None:
        # Opening, writing and closing a file are events of their own: the first one counts.
        late.setdefault(event.name, (time.time() - float(event.name)) * 1e3)
        if len(late) == FILES:
            all_heard.set()

    try:
        await sandbox.files.make_dir("/tmp/watched")
        watch = await sandbox.files.watch_dir("/tmp/watched", heard)
        await sandbox.files.write("/tmp/maker.py", MAKER)
        await sandbox.commands.run("python3 /tmp/maker.py")
        async with asyncio.timeout(10):
            await all_heard.wait()
        await watch.stop()
    finally:
        await sandbox.kill()
    return list(late.values())
