"""Only whole builds have a name; what a dead builder left is removed, what a live one works on is not."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.ids import TemplateId
from atoll.server.images.folders import Folders

ONE = TemplateId("tiny-000000000001")

# Builds until it is killed.
BUILDER = """
import asyncio, sys
from pathlib import Path
from atoll.server.images.folders import Folders
async def main():
    async with Folders(Path(sys.argv[1])).working() as work:
        (work / "rootfs" / "usr").mkdir(parents=True)
        print(work.name, flush=True)
        await asyncio.sleep(300)
asyncio.run(main())
"""


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "templates")


def hidden(folders: Folders) -> list[str]:
    return [path.name for path in folders.root.glob(".building-*")]


async def test_what_is_published_has_its_name_and_nothing_else_is_left(folders: Folders) -> None:
    async with folders.working() as work:
        (work / "file").touch()
        assert folders.built() == []
        folders.publish(work, ONE)

    assert folders.built() == [folders.path(ONE)]
    assert (folders.path(ONE) / "file").exists()
    assert hidden(folders) == []


async def test_a_failed_build_leaves_nothing(folders: Folders) -> None:
    async def build() -> None:
        async with folders.working() as work:
            (work / "file").touch()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await build()

    assert folders.built() == []
    assert hidden(folders) == []


async def test_nobody_else_on_the_host_reads_a_build(folders: Folders) -> None:
    async with folders.working() as work:
        assert work.stat().st_mode & 0o777 == 0o700


def test_a_killed_builders_folder_is_removed_and_a_live_ones_is_not(folders: Folders) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folders.root)], stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        name = builder.stdout.readline().strip()
        removed_while_alive = folders.clear()
        os.kill(builder.pid, signal.SIGKILL)
        builder.wait()

    assert removed_while_alive == []
    assert hidden(folders) == [name]
    assert folders.clear() == [name]
    assert hidden(folders) == []


async def test_one_builder_at_a_time(folders: Folders) -> None:
    order: list[str] = []
    first_is_in = asyncio.Event()
    release = asyncio.Event()

    async def first() -> None:
        async with folders.locked(ONE, timeout_s=5):
            order.append("first")
            first_is_in.set()
            await release.wait()
            order.append("first done")

    async def second() -> None:
        await first_is_in.wait()
        with pytest.raises(UnavailableError, match="is being built by another process"):
            async with folders.locked(ONE, timeout_s=0.2):
                order.append("too early")
        release.set()
        async with folders.locked(ONE, timeout_s=5):
            order.append("second")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(first())
        tasks.create_task(second())

    assert order == ["first", "first done", "second"]


async def test_two_templates_are_built_at_once(folders: Folders) -> None:
    async with (
        folders.locked(ONE, timeout_s=1),
        folders.locked(TemplateId("tiny-000000000002"), timeout_s=1),
    ):
        pass


def test_a_folder_that_is_not_there_has_nothing(folders: Folders) -> None:
    assert folders.built() == []
    assert folders.clear() == []
