"""Moving files with the SDK, against a fake daemon over a directory."""

import asyncio
import io
import os
from pathlib import Path
from typing import Any

import pytest
from fakes.live_cloud import LiveCloud

from atoll import (
    AsyncSandbox,
    ConnectionLostError,
    FileChange,
    FileType,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from atoll._gen.filesystem import filesystem_pb as fs


async def test_text_and_bytes_come_back_as_written(sandbox: Any) -> None:
    data = os.urandom(300_000)

    info = await sandbox.files.write("/notes/hello.txt", "grüezi\n")
    await sandbox.files.write("/blob", data)

    assert (info.path, info.type, info.size) == ("/notes/hello.txt", FileType.FILE, 8)
    assert await sandbox.files.read("/notes/hello.txt") == "grüezi\n"
    assert await sandbox.files.read("/blob", format="bytes") == data


async def test_content_comes_from_anything_that_has_bytes(sandbox: Any, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    source = tmp_path / "source"
    source.write_bytes(data)

    for given in (data, bytearray(data), source, io.BytesIO(data), iter([data[:10], b"", data[10:]])):
        await sandbox.files.write("/x", given)
        assert await sandbox.files.read("/x", format="bytes") == data
    with source.open("rb") as file:
        await sandbox.files.write("/x", file)
    assert await sandbox.files.read("/x", format="bytes") == data


async def test_an_async_iterator_can_be_the_content(cloud: LiveCloud) -> None:
    async def pieces() -> Any:
        yield b"a"
        await asyncio.sleep(0)
        yield b"b"

    async with await AsyncSandbox.create(**cloud.options) as sandbox:
        await sandbox.files.write("/x", pieces())
        assert await sandbox.files.read("/x") == "ab"


@pytest.mark.parametrize("bad", [7, None, [1, 2]])
async def test_what_has_no_bytes_is_refused(sandbox: Any, bad: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="data"):
        await sandbox.files.write("/x", bad)


async def test_a_stream_yields_the_file_in_pieces_and_knows_its_size(sandbox: Any) -> None:
    data = os.urandom(2 << 20)
    await sandbox.files.write("/large", data)

    stream = await sandbox.files.read("/large", format="stream")
    pieces = [piece async for piece in stream]

    assert stream.size == len(data)
    assert len(pieces) > 1
    assert b"".join(pieces) == data


async def test_a_stream_can_be_left(sandbox: Any) -> None:
    await sandbox.files.write("/large", b"x" * (2 << 20))

    async with await sandbox.files.read("/large", format="stream") as stream:
        async for _ in stream:
            break

    assert await sandbox.files.exists("/large")


async def test_a_download_cut_in_the_middle_is_said(cloud: LiveCloud, sandbox: Any) -> None:
    await sandbox.files.write("/large", b"x" * (1 << 20))
    cloud.daemon.cut_after = 1000

    with pytest.raises(ConnectionLostError, match="lost"):
        await sandbox.files.read("/large", format="bytes")


async def test_a_missing_file_is_not_found(sandbox: Any) -> None:
    with pytest.raises(NotFoundError):
        await sandbox.files.read("/no-such")
    with pytest.raises(NotFoundError):
        await sandbox.files.list("/no-such")
    with pytest.raises(NotFoundError):
        await sandbox.files.stat("/no-such")
    assert not await sandbox.files.exists("/no-such")


async def test_a_path_with_nul_is_refused(sandbox: Any) -> None:
    for call in (sandbox.files.read, sandbox.files.stat, sandbox.files.list, sandbox.files.remove):
        with pytest.raises(InvalidArgumentError, match="NUL"):
            await call("a\0b")
    with pytest.raises(InvalidArgumentError, match="NUL"):
        await sandbox.files.write("a\0b", "x")


async def test_a_full_disk_is_said(cloud: LiveCloud, sandbox: Any) -> None:
    cloud.daemon.refusal = (507, b'{"code": 507, "message": "not enough disk space available"}')

    with pytest.raises(ResourceExhaustedError, match="not enough disk space"):
        await sandbox.files.write("/x", "y")


async def test_an_error_without_a_form_is_still_an_error(cloud: LiveCloud, sandbox: Any) -> None:
    cloud.daemon.refusal = (500, b"\xff" * 100_000)

    with pytest.raises(Exception, match="HTTP status 500"):
        await sandbox.files.read("/x")


async def test_directories_are_made_listed_renamed_and_removed(sandbox: Any) -> None:
    assert await sandbox.files.make_dir("/d/sub")
    assert not await sandbox.files.make_dir("/d/sub")
    await sandbox.files.write("/d/file", "1")
    moved = await sandbox.files.rename("/d/file", "/d/other")

    listed = {entry.name: entry.type for entry in await sandbox.files.list("/d")}
    await sandbox.files.remove("/d")

    assert moved.path == "/d/other"
    assert listed == {"sub": FileType.DIRECTORY, "other": FileType.FILE}
    assert not await sandbox.files.exists("/d")


async def test_a_watch_yields_what_happens(cloud: LiveCloud, sandbox: Any) -> None:
    await sandbox.files.make_dir("/w")
    event = fs.FilesystemEvent(name="new", type=fs.EventType.CREATE)

    async with await sandbox.files.watch("/w") as watch:
        cloud.loop.call_soon_threadsafe(cloud.daemon.filesystem.events.put_nowait, event)
        seen = await anext(aiter(watch))

    assert (seen.name, seen.change) == ("new", FileChange.CREATE)


async def test_watching_what_is_not_there_is_not_found(sandbox: Any) -> None:
    with pytest.raises(NotFoundError):
        await sandbox.files.watch("/no-such")
