"""Checkpoints are packed by the real program, and come back without a byte lost, or are refused by name."""

import asyncio
import fcntl
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.storing import LIMITS, PAGE, Kept, noise

from atoll.server.domain.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.host.blobs import BlobsError, BlobsProgram, BlobStore
from atoll.server.runtimes import images
from atoll.server.runtimes import packed as packed_files

PAGES = noise(1, 300)
# Larger than what is summed at once: sealed before it is packed.
LARGE = noise(2, 2500)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


async def packed(kept: Kept, name: str = "one", **content: bytes) -> None:
    """Write one and pack it; nothing raw is left."""
    kept.write(name, **(content or {"pages": PAGES, "checkpoint": b"state"}))
    assert await kept.packer.pack_next()
    await kept.packer.drop_raw()
    assert kept.raw(name) == []


async def test_what_is_packed_comes_back_as_it_was(kept: Kept) -> None:
    content = {"pages": LARGE, "checkpoint": b"state", "empty": b""}
    await packed(kept, **content)

    assert await kept.read("one") == content

    assert not await kept.packer.pack_next()
    assert kept.raw("one") == ["checkpoint.img", "empty.img", "pages.img"]
    await kept.packer.drop_raw()
    assert await Kept(kept.home).read("one") == content


async def test_a_fork_takes_what_differs(kept: Kept) -> None:
    await packed(kept)
    before = sum(run.stat().st_size for run in kept.runs())

    await packed(kept, "two", pages=noise(3, 1) + PAGES, checkpoint=b"other")

    more = sum(run.stat().st_size for run in kept.runs()) - before
    assert 0 < more < 0.3 * before
    assert (await kept.read("two"))["pages"] == noise(3, 1) + PAGES
    assert (await kept.read("one"))["pages"] == PAGES


async def test_many_at_once_share_the_unpacking(kept: Kept) -> None:
    await packed(kept, pages=LARGE)

    found = await asyncio.gather(*(kept.read("one") for _ in range(5)))

    assert all(one == {"pages": LARGE} for one in found)


async def test_what_is_removed_frees_the_disk(kept: Kept) -> None:
    await packed(kept)
    await packed(kept, "two", pages=noise(3, 50) + PAGES)
    both = len(kept.runs())

    await kept.files.remove("two")
    await kept.packer.sweep()
    one = len(kept.runs())
    assert (await kept.read("one"))["pages"] == PAGES
    await kept.files.remove("one")
    await kept.packer.sweep()

    assert 0 < one < both
    assert kept.runs() == []


async def test_what_is_damaged_is_refused_by_name(kept: Kept) -> None:
    await packed(kept)
    for run in random.Random(1).sample(kept.runs(), 3):
        content = run.read_bytes()
        for damage in (None, content[:-1], b"", content[:9] + bytes([content[9] ^ 1]) + content[10:]):
            run.unlink(missing_ok=True)
            if damage is not None:
                run.write_bytes(damage)

            with pytest.raises(FailedPreconditionError, match="'one' is damaged") as caught:
                await kept.read("one")

            assert run.name in str(caught.value.details)
            assert not list(kept.files.path("one").glob(".unpacking-*"))
        run.unlink()
        run.write_bytes(content)
        assert (await kept.read("one"))["pages"] == PAGES
        await kept.packer.drop_raw()


async def test_a_damaged_index_is_refused_by_name_and_nothing_is_swept(kept: Kept) -> None:
    await packed(kept)
    await packed(kept, "two", pages=noise(4, 20))
    index = kept.files.path("one") / "runs"
    content = index.read_bytes()
    await kept.files.remove("two")
    runs = kept.runs()
    for damage in (b"", content[:-1], content[:40] + b"\xff" + content[41:]):
        index.write_bytes(damage)
        with pytest.raises(FailedPreconditionError, match="'one' is damaged"):
            await kept.read("one")
        with pytest.raises(FailedPreconditionError):
            await kept.packer.sweep()
        assert kept.runs() == runs

    index.write_bytes(content)
    assert (await kept.read("one"))["pages"] == PAGES
    await kept.packer.sweep()
    assert len(kept.runs()) < len(runs)


async def test_a_raw_copy_that_is_damaged_is_not_packed_and_keeps_no_other_from_it(kept: Kept) -> None:
    kept.write("bad", pages=PAGES)
    path = kept.files.path("bad") / "pages.img"
    path.write_bytes(PAGES[:-1] + bytes([PAGES[-1] ^ 1]))
    os.utime(kept.files.path("bad") / images.MANIFEST, (1, 1))
    kept.write("good", pages=PAGES)

    with pytest.raises(FailedPreconditionError, match="'bad' is damaged"):
        await kept.packer.pack_next()
    assert await kept.packer.pack_next()
    await kept.packer.drop_raw()

    assert kept.raw("bad") == ["pages.img"]
    assert kept.raw("good") == []
    assert not await kept.packer.pack_next()


async def test_raw_copies_that_were_used_last_stay(tmp_path: Path) -> None:
    kept = Kept(tmp_path, replace(LIMITS, raw_bytes=2 * len(PAGES) + 10 * PAGE))
    for number, name in enumerate(("a", "b", "c")):
        kept.write(name, pages=PAGES)
        os.utime(kept.files.path(name) / images.MANIFEST, (number, number))
        assert await kept.packer.pack_next()
        os.utime(kept.files.path(name) / "runs", (number, number))
    await kept.read("a")

    await kept.packer.drop_raw()

    assert {name: bool(kept.raw(name)) for name in "abc"} == {"a": True, "b": False, "c": True}


async def test_a_full_disk_keeps_no_raw_copies(tmp_path: Path) -> None:
    kept = Kept(tmp_path, replace(LIMITS, raw_bytes=1 << 60))
    kept.write("one", pages=PAGES)
    assert await kept.packer.pack_next()
    full = Kept(tmp_path, replace(LIMITS, raw_bytes=1 << 60, reserve_bytes=1 << 60))

    await full.packer.drop_raw()
    assert full.raw("one") == []
    with pytest.raises(ResourceExhaustedError, match="disk is full") as caught:
        await full.read("one")
    assert caught.value.reason is Reason.DISK_FULL

    assert (await kept.read("one"))["pages"] == PAGES


async def test_packing_leaves_the_reserve_free(tmp_path: Path) -> None:
    kept = Kept(tmp_path, reserve=1 << 60)
    kept.write("one", pages=PAGES)

    with pytest.raises(ResourceExhaustedError, match="disk is full"):
        await kept.packer.pack_next()

    assert kept.runs() == []
    assert await kept.read("one") == {"pages": PAGES}
    # The next one has room again.
    assert await Kept(tmp_path).packer.pack_next()


async def test_who_is_pinned_or_in_use_stays_raw(kept: Kept) -> None:
    kept.files.pin("pinned")
    kept.write("pinned", pages=PAGES)
    assert not await kept.packer.pack_next()
    kept.files.unpin("pinned")
    assert await kept.packer.pack_next()

    kept.files.pin("pinned")
    await kept.packer.drop_raw()
    assert kept.raw("pinned") == ["pages.img"]
    await kept.files.keep_only(frozenset())
    assert kept.files.path("pinned").exists()
    kept.files.unpin("pinned")
    async with kept.files.raw("pinned"):
        await kept.packer.drop_raw()
        assert kept.raw("pinned") == ["pages.img"]
    await kept.packer.drop_raw()
    assert kept.raw("pinned") == []


async def test_who_is_young_is_not_packed(tmp_path: Path) -> None:
    kept = Kept(tmp_path, replace(LIMITS, pack_after=LIMITS.collect_every))
    kept.write("one", pages=PAGES)

    assert not await kept.packer.pack_next()


async def test_who_is_removed_meanwhile_is_not_there(kept: Kept) -> None:
    kept.write("one", pages=noise(5, 20_000))
    packing = asyncio.create_task(kept.packer.pack_next())
    while not list((kept.home / "blobs").glob(".new-*/*")):
        await asyncio.sleep(0.005)

    await kept.files.remove("one")
    assert await packing

    async with kept.files.raw("one") as path:
        with pytest.raises(NotFoundError):
            images.read(path)
    assert kept.files.entries() == []
    await kept.packer.sweep()
    assert kept.runs() == []


async def test_who_is_removed_while_its_raw_copy_goes_harms_nobody(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write("one", pages=PAGES)
    assert await kept.packer.pack_next()
    drop = packed_files.drop

    def late(directory: Path) -> bool:
        shutil.rmtree(directory)
        return drop(directory)

    monkeypatch.setattr(packed_files, "drop", late)
    await kept.packer.drop_raw()

    assert kept.files.entries() == []


async def test_who_is_removed_while_it_is_read_is_not_there(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write("one", pages=PAGES)
    assert await kept.packer.pack_next()
    lacking = packed_files.lacking

    def late(directory: Path) -> tuple[str, ...]:
        found = lacking(directory)
        shutil.rmtree(directory)
        # As it was when that was asked.
        monkeypatch.setattr(packed_files, "is_packed", lambda _: True)
        return found

    monkeypatch.setattr(packed_files, "lacking", late)
    async with kept.files.raw("one") as path:
        with pytest.raises(NotFoundError):
            images.read(path)


async def test_a_killed_pack_leaves_all_of_it_raw_and_a_killed_unpack_all_of_it_packed(kept: Kept) -> None:
    content = noise(6, 4000)
    kept.write("one", pages=content)
    for patience_s in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3):
        packing = asyncio.create_task(kept.packer.pack_next())
        await asyncio.wait([packing], timeout=patience_s)
        packing.cancel()
        await asyncio.wait([packing])
        if not (kept.files.path("one") / "runs").exists():
            assert kept.raw("one") == ["pages.img"]
    kept = Kept(kept.home)
    await kept.packer.pack_next()
    await kept.packer.drop_raw()
    assert kept.raw("one") == []
    for patience_s in (0.0, 0.01, 0.02, 0.05):
        reading = asyncio.create_task(kept.read("one"))
        await asyncio.wait([reading], timeout=patience_s)
        reading.cancel()
        await asyncio.wait([reading])

    await kept.files.keep_only(frozenset({"one"}))
    assert await kept.read("one") == {"pages": content}


async def test_programs_that_do_not_answer_are_said(tmp_path: Path) -> None:
    store = BlobStore(directory=tmp_path / "blobs", reserve_bytes=0)
    with pytest.raises(BlobsError) as caught:
        await BlobsProgram(Path("/bin/true"), store).check(timeout_s=5)
    assert caught.value.kind == "internal"
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o700)
    with pytest.raises(BlobsError) as caught:
        await BlobsProgram(hanging, store).check(timeout_s=0.2)
    assert caught.value.kind == "timeout"


async def test_unpacking_that_takes_too_long_is_given_up(kept: Kept, tmp_path: Path) -> None:
    await packed(kept)
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o700)
    limits = replace(LIMITS, unpack_timeout=LIMITS.pack_after, unpack_bytes_a_second=100 * len(PAGES))
    slow = Kept(tmp_path, limits)
    slow.files._blobs = BlobsProgram(hanging, kept.blobs.store)

    with pytest.raises(DeadlineExceededError, match="'one' took too long"):
        await slow.read("one")


async def test_a_sweep_waits_for_no_pack_for_ever(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    await packed(kept)
    await kept.files.remove("one")
    monkeypatch.setattr("atoll.server.runtimes.packing.PATIENCE_S", 0.2)
    with (kept.home / "blobs" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(UnavailableError):
            await kept.packer.sweep()

    assert kept.runs()
    await kept.packer.sweep()
    assert kept.runs() == []
