"""The released asyncio client does what the other one does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    CommandExitException,
    FileNotFoundException,
    FilesystemEvent,
    FilesystemEventType,
    NotFoundException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)
from e2b.sandbox.commands.command_handle import PtySize


@asynccontextmanager
async def sandbox_of(options: dict[str, Any], **wishes: Any) -> AsyncIterator[AsyncSandbox]:
    sandbox = await AsyncSandbox.create("minimal", timeout=300, **wishes, **options)
    try:
        yield sandbox
    finally:
        await sandbox.kill()


async def test_lifecycle(client_options: dict[str, Any]) -> None:
    async with sandbox_of(client_options, metadata={"of": "async"}, envs={"A": "b"}) as sandbox:
        info = await sandbox.get_info()
        assert (info.metadata, info.state) == ({"of": "async"}, SandboxState.RUNNING)
        await sandbox.set_timeout(120)
        assert await sandbox.is_running()
        assert sandbox.get_host(3000).startswith(f"3000-{sandbox.sandbox_id}.")
        pages = AsyncSandbox.list(query=SandboxQuery(metadata={"of": "async"}), **client_options)
        assert [item.sandbox_id for item in await pages.next_items()] == [sandbox.sandbox_id]
        again = await AsyncSandbox.connect(sandbox.sandbox_id, **client_options)
        assert (await again.commands.run("echo $A")).stdout == "b\n"
        assert await sandbox.get_metrics() is not None
        assert await AsyncSandbox.kill(sandbox.sandbox_id, **client_options)
        assert not await sandbox.is_running()


async def test_commands(client_options: dict[str, Any]) -> None:
    async with sandbox_of(client_options) as sandbox:
        lines: list[str] = []
        result = await sandbox.commands.run("echo one; echo two >&2", on_stdout=lines.append)
        assert (result.stdout, result.stderr, lines) == ("one\n", "two\n", ["one\n"])
        with pytest.raises(CommandExitException):
            await sandbox.commands.run("exit 3")
        with pytest.raises(TimeoutException):
            await sandbox.commands.run("sleep 60", timeout=1)

        handle = await sandbox.commands.run("cat", background=True, stdin=True)
        assert handle.pid in [process.pid for process in await sandbox.commands.list()]
        await sandbox.commands.send_stdin(handle.pid, "typed\n")
        other = await sandbox.commands.connect(handle.pid)
        await sandbox.commands.close_stdin(handle.pid)
        assert (await handle.wait()).stdout == "typed\n"
        await other.disconnect()

        endless = await sandbox.commands.run("sleep 60", background=True)
        assert await endless.kill()
        assert not await sandbox.commands.kill(endless.pid)


async def test_files(client_options: dict[str, Any]) -> None:
    async with sandbox_of(client_options) as sandbox:
        files = sandbox.files
        assert await files.make_dir("dir")
        assert not await files.make_dir("dir")
        await files.write("dir/a", "grüezi")
        await files.write_files([{"path": "dir/b", "data": b"\x00\xff"}, {"path": "dir/c", "data": "c"}])
        assert await files.read("dir/a") == "grüezi"
        assert bytes(await files.read("dir/b", format="bytes")) == b"\x00\xff"
        assert sorted(entry.name for entry in await files.list("dir")) == ["a", "b", "c"]
        assert (await files.get_info("dir/a")).size == 7
        assert (await files.rename("dir/c", "dir/d")).name == "d"
        assert await files.exists("dir/d")
        await files.remove("dir/d")
        assert not await files.exists("dir/d")
        with pytest.raises((FileNotFoundException, NotFoundException)):
            await files.read("dir/d")


async def test_a_watch(client_options: dict[str, Any]) -> None:
    async with sandbox_of(client_options) as sandbox:
        await sandbox.files.make_dir("watched")
        seen: asyncio.Queue[FilesystemEvent] = asyncio.Queue()
        watch = await sandbox.files.watch_dir("watched", on_event=seen.put_nowait, recursive=True)
        await sandbox.files.write("watched/new", "x")
        async with asyncio.timeout(20):
            while (event := await seen.get()).type is not FilesystemEventType.WRITE:
                pass
        assert event.name == "new"
        await watch.stop()


async def test_a_terminal(client_options: dict[str, Any]) -> None:
    async with sandbox_of(client_options) as sandbox:
        shown = bytearray()
        size = PtySize(rows=24, cols=80)
        terminal = await sandbox.pty.create(size, on_data=shown.extend)
        await sandbox.pty.resize(terminal.pid, PtySize(rows=30, cols=90))
        await sandbox.pty.send_stdin(terminal.pid, b"stty size; exit\n")
        await terminal.wait()
        assert b"30 90" in shown
        second = await sandbox.pty.create(size, on_data=shown.extend)
        assert await sandbox.pty.kill(second.pid)
