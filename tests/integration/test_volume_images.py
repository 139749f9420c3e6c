"""Volumes as file systems in files, on this machine's kernel."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from atoll.server.domain.errors import NotFoundError, UnavailableError
from atoll.server.domain.ids import TeamId, new_volume_id
from atoll.server.domain.volume import Volume
from atoll.server.host import ext4
from atoll.server.volumes.images import VolumeImages

MIB = 1024 * 1024


def volume(size_bytes: int = 64 * MIB) -> Volume:
    return Volume(
        id=new_volume_id(),
        team_id=TeamId("team"),
        name="v",
        size_bytes=size_bytes,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[VolumeImages]:
    made = VolumeImages(tmp_path / "volumes")
    yield made
    for one in await made.present():
        await made.remove(one)


async def test_what_is_written_outlives_mounts(images: VolumeImages) -> None:
    one = volume()
    await images.make(one)
    place = await images.directory(one.id)
    assert list(place.iterdir()) == []
    assert (place.stat().st_uid, place.stat().st_mode & 0o7777) == (1000, 0o755)
    (place / "file").write_text("kept")

    await images.make(one)
    await images.let_go()
    assert not place.is_mount()
    assert not (place / "file").exists()

    assert (await images.directory(one.id) / "file").read_text() == "kept"


async def test_let_go_leaves_the_images_only(images: VolumeImages, tmp_path: Path) -> None:
    """A mount that another mount namespace still has goes with its directory."""
    one, unused = volume(), volume()
    await images.make(one)
    await images.make(unused)
    await images.directory(one.id)

    await images.let_go()
    await images.let_go()

    left = sorted(path.name for path in (tmp_path / "volumes").iterdir())
    assert left == sorted([f"{one.id}.ext4", f"{unused.id}.ext4"])


async def test_it_holds_its_size_and_takes_room_as_it_is_written_to(images: VolumeImages) -> None:
    one = volume()
    await images.make(one)
    place = await images.directory(one.id)
    before = place.with_name(f"{one.id}.ext4").stat().st_blocks * 512

    with pytest.raises(OSError, match="No space"):
        (place / "large").write_bytes(b"x" * 100 * MIB)

    assert before < 16 * MIB


async def test_calls_at_once_mount_it_once(images: VolumeImages) -> None:
    one = volume()
    await images.make(one)

    places = await asyncio.gather(*(images.directory(one.id) for _ in range(8)))

    mounts = Path("/proc/self/mounts").read_text()
    assert mounts.count(f" {places[0]} ") == 1


async def test_removing_leaves_nothing_and_may_be_repeated(images: VolumeImages, tmp_path: Path) -> None:
    one = volume()
    await images.make(one)
    place = await images.directory(one.id)
    with (place / "held").open("w"):
        await images.remove(one.id)
    await images.remove(one.id)

    assert list((tmp_path / "volumes").iterdir()) == []
    with pytest.raises(NotFoundError):
        await images.directory(one.id)


async def test_one_that_was_half_made_is_listed_and_made_again(
    images: VolumeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = volume()

    def broken(image: Path, directory: Path) -> None:
        raise ext4.Ext4Error("no loop device")

    with monkeypatch.context() as patched:
        patched.setattr(ext4, "mount", broken)
        with pytest.raises(UnavailableError, match="cannot give the volume"):
            await images.make(one)
    assert await images.present() == [one.id]
    with pytest.raises(NotFoundError):
        await images.directory(one.id)

    await images.make(one)
    assert (await images.directory(one.id)).is_mount()


async def test_a_damaged_one_is_said(images: VolumeImages, tmp_path: Path) -> None:
    one = volume()
    await images.make(one)
    image = tmp_path / "volumes" / f"{one.id}.ext4"
    image.write_bytes(b"\0" * MIB)

    with pytest.raises(UnavailableError, match="cannot give the volume") as caught:
        await images.directory(one.id)
    assert one.id in str(caught.value.details)
