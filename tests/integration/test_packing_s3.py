"""Runs of checkpoints are kept in a real S3 server, whatever it does."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.disks import mounted
from support.s3_server import S3Server, s3_server
from support.storing import PROGRAM, Kept, noise

from atoll.server.domain.errors import (
    AtollError,
    FailedPreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)

# The server is built first: for who has time.
pytestmark = pytest.mark.heavy

PAGES = noise(1, 400)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with s3_server(tmp_path / "s3") as made:
        yield made


@pytest.fixture
def kept(tmp_path: Path, server: S3Server) -> Kept:
    return Kept(tmp_path / "home", s3=server.bucket())


async def packed(kept: Kept, name: str = "one", pages: bytes = PAGES) -> None:
    kept.write(name, pages=pages, checkpoint=b"state")
    assert await kept.packer.pack_next()
    await kept.packer.drop_raw()
    assert kept.raw(name) == []


async def test_what_is_packed_into_a_bucket_comes_back(kept: Kept, server: S3Server) -> None:
    await packed(kept)
    before = len(server.objects)
    await packed(kept, "two", noise(2, 1) + PAGES)

    assert kept.runs() == []
    assert 0 < len(server.objects) - before < before / 2
    assert (await kept.read("two"))["pages"] == noise(2, 1) + PAGES
    assert (await kept.read("one"))["pages"] == PAGES


async def test_runs_that_nobody_names_go_and_no_others(kept: Kept, server: S3Server, tmp_path: Path) -> None:
    await packed(kept)
    others = tmp_path / "s3" / "runs" / "atoll" / "another home" / "file"
    others.parent.mkdir(parents=True)
    others.write_bytes(b"not ours")
    beside = tmp_path / "s3" / "runs" / "atoll" / "123456" / "readme"
    beside.write_bytes(b"not a run")
    await packed(kept, "two", noise(2, 100) + PAGES)
    both = len(server.objects)

    await kept.files.remove("two")
    await kept.packer.sweep()
    assert 0 < len(server.objects) < both
    assert (await kept.read("one"))["pages"] == PAGES
    await kept.files.remove("one")
    await kept.packer.sweep()

    assert server.objects == []
    assert others.exists()
    assert beside.exists()


async def test_a_server_that_goes_down_in_the_middle_loses_nothing(kept: Kept, server: S3Server) -> None:
    pages = noise(3, 8000)
    kept.write("one", pages=pages)
    packing = asyncio.create_task(kept.packer.pack_next())
    while len(server.objects) < 20:
        await asyncio.sleep(0.01)
    server.kill()

    with pytest.raises(UnavailableError, match="does not answer"):
        await packing
    assert kept.raw("one") == ["pages.img"]
    assert await kept.read("one") == {"pages": pages}

    server.start()
    # As the next server, or the next look: this one waits for nothing.
    kept = Kept(kept.home, s3=server.bucket())
    assert await kept.packer.pack_next()
    await kept.packer.drop_raw()
    server.kill()
    with pytest.raises(UnavailableError, match="does not answer"):
        await kept.read("one")
    assert kept.raw("one") == []
    server.start()
    assert await kept.read("one") == {"pages": pages}


async def test_a_missing_and_a_damaged_object_are_refused_by_name(kept: Kept, server: S3Server) -> None:
    await packed(kept)
    run = random.Random(1).choice(server.objects)
    content = run.read_bytes()
    for damage in (content[:-1], content[:9] + bytes([content[9] ^ 1]) + content[10:], None):
        run.write_bytes(damage) if damage is not None else run.unlink()

        with pytest.raises(FailedPreconditionError, match="'one' is damaged") as caught:
            await kept.read("one")

        assert run.name in str(caught.value.details)


async def test_wrong_credentials_are_said_and_not_shown(kept: Kept, server: S3Server) -> None:
    await packed(kept)
    stranger = Kept(kept.home, s3=server.bucket(secret="of somebody else"))
    stranger.write("two", pages=noise(2, 50))

    for call in (stranger.packer.pack_next(), stranger.read("one"), stranger.packer.sweep()):
        with pytest.raises(UnavailableError, match="lets nobody in") as caught:
            await call
        assert "somebody else" not in f"{caught.value} {caught.value.details}"
    assert stranger.raw("two") == ["pages.img"]


async def test_a_bucket_that_is_not_there_is_said(tmp_path: Path, server: S3Server) -> None:
    (tmp_path / "s3" / "runs").rmdir()
    kept = Kept(tmp_path / "home", s3=server.bucket())
    kept.write("one", pages=PAGES)

    with pytest.raises(UnavailableError) as caught:
        await kept.packer.pack_next()

    assert "NoSuchBucket" in str(caught.value.details)


async def test_secrets_are_in_no_arguments(kept: Kept) -> None:
    kept.write("one", pages=noise(3, 4000))
    packing = asyncio.create_task(kept.packer.pack_next())
    seen = False
    while not packing.done():
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if str(PROGRAM) in words:
                seen = True
                assert not any("secret" in word for word in words)
                with contextlib.suppress(psutil.Error):
                    assert not any("a secret of" in value for value in process.environ().values())
        await asyncio.sleep(0.01)

    assert seen
    assert "a secret of" not in repr(kept.blobs.store)


@contextlib.asynccontextmanager
async def slowed(port: int, delay_s: Callable[[], float]) -> AsyncIterator[int]:
    """Stand before a server, and hold back what it answers."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if late:
                    await asyncio.sleep(delay_s())
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        carrying = asyncio.gather(carry(reader, back, False), carry(there, writer, True))
        underway.append((carrying, writer, back))
        with contextlib.suppress(asyncio.CancelledError):
            await carrying

    underway: list[tuple[asyncio.Future[list[None]], asyncio.StreamWriter, asyncio.StreamWriter]] = []
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for carrying, *writers in underway:
            carrying.cancel()
            for writer in writers:
                writer.transport.abort()
        await asyncio.sleep(0.1)


async def test_a_slow_server_is_waited_for_and_a_hung_one_given_up(tmp_path: Path, server: S3Server) -> None:
    delay = 0.05
    async with slowed(server.port, lambda: delay) as port:
        kept = Kept(tmp_path / "home", s3=server.bucket(port=port, timeout_s=5))
        await packed(kept, pages=noise(2, 60))
        assert (await kept.read("one"))["pages"] == noise(2, 60)

        delay = 30.0
        hung = Kept(tmp_path / "home", s3=server.bucket(port=port, timeout_s=0.3))
        await hung.packer.drop_raw()
        hung.write("two", pages=noise(3, 60))
        async with asyncio.timeout(20):
            with pytest.raises(UnavailableError, match="does not answer"):
                await hung.packer.pack_next()
            with pytest.raises(UnavailableError, match="does not answer"):
                await hung.read("one")
        assert hung.raw("two") == ["pages.img"]


async def test_a_full_server_is_said_and_everything_stays_raw(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 8 * 1024 * 1024) as disk, s3_server(disk / "s3") as server:
        kept = Kept(tmp_path / "home", s3=server.bucket())
        pages = noise(4, 4000)
        kept.write("one", pages=pages)

        with pytest.raises(AtollError) as caught:
            await kept.packer.pack_next()

        assert isinstance(caught.value, ResourceExhaustedError | UnavailableError)
        assert await kept.read("one") == {"pages": pages}
        await kept.files.remove("one")
        await kept.packer.sweep()
        assert server.objects == []
        await packed(kept, "small", noise(5, 50))
        assert (await kept.read("small"))["pages"] == noise(5, 50)
