"""
Volumes as files with a file system in each.

    <volumes>/<id>.ext4     the file system
    <volumes>/<id>.new      one that is being made
    <volumes>/<id>/         where it is mounted, from its first use until the home is taken down

Guests write into what is mounted there as they like: nothing here follows a path in it.
"""

import asyncio
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import override

from atoll.server.domain.errors import (
    InvalidArgumentError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import VolumeId, parse_volume_id
from atoll.server.domain.volume import Volume
from atoll.server.host import ext4
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.volumes import VolumeFiles

# The user of our templates, who is to write there.
OWNER = 1000


class VolumeImages(VolumeFiles):
    """Volumes below one directory. Calls for one volume take turns."""

    def __init__(self, directory: Path) -> None:
        """
        Args:
            directory: for root only; made when it is needed.
        """
        self._directory = directory
        self._locks: dict[VolumeId, asyncio.Lock] = {}

    @override
    async def make(self, volume: Volume) -> None:
        async with self._lock(volume.id):
            with _translated(volume.id):
                await finish_in_thread(self._make, volume)

    @override
    async def directory(self, volume_id: VolumeId) -> Path:
        async with self._lock(volume_id):
            with _translated(volume_id):
                return await finish_in_thread(self._mount, volume_id)

    @override
    async def remove(self, volume_id: VolumeId) -> None:
        async with self._lock(volume_id):
            with _translated(volume_id):
                await finish_in_thread(self._remove, volume_id)
        self._locks.pop(volume_id, None)

    @override
    async def present(self) -> Sequence[VolumeId]:
        return await asyncio.to_thread(self._present)

    @override
    async def let_go(self) -> None:
        for volume_id in await self.present():
            async with self._lock(volume_id):
                with _translated(volume_id):
                    await finish_in_thread(self._clear, volume_id)

    def _lock(self, volume_id: VolumeId) -> asyncio.Lock:
        return self._locks.setdefault(volume_id, asyncio.Lock())

    def _image(self, volume_id: VolumeId) -> Path:
        return self._directory / f"{volume_id}.ext4"

    def _place(self, volume_id: VolumeId) -> Path:
        return self._directory / volume_id

    def _make(self, volume: Volume) -> None:
        if self._image(volume.id).exists():
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = self._directory / f"{volume.id}.new"
        self._unmount(volume.id)
        made.unlink(missing_ok=True)
        ext4.make(made, volume.size_bytes)
        place = self._place(volume.id)
        place.mkdir(mode=0o700, exist_ok=True)
        ext4.mount(made, place)
        try:
            (place / "lost+found").rmdir()
            os.chown(place, OWNER, OWNER)
            place.chmod(0o755)
        finally:
            ext4.unmount(place)
        made.rename(self._image(volume.id))

    def _mount(self, volume_id: VolumeId) -> Path:
        place = self._place(volume_id)
        if not self._image(volume_id).exists():
            raise NotFoundError(f"Volume {volume_id} not found")
        place.mkdir(mode=0o700, exist_ok=True)
        if not place.is_mount():
            ext4.mount(self._image(volume_id), place)
        return place

    def _unmount(self, volume_id: VolumeId) -> None:
        place = self._place(volume_id)
        # More than once, if something mounted it twice.
        while place.is_mount():
            ext4.unmount(place)

    def _clear(self, volume_id: VolumeId) -> None:
        self._unmount(volume_id)
        # With the directory go mounts that other namespaces still have there, and their loop devices.
        if self._place(volume_id).exists():
            self._place(volume_id).rmdir()

    def _remove(self, volume_id: VolumeId) -> None:
        # The image last: as long as it is there, the volume is listed.
        self._clear(volume_id)
        (self._directory / f"{volume_id}.new").unlink(missing_ok=True)
        self._image(volume_id).unlink(missing_ok=True)

    def _present(self) -> list[VolumeId]:
        found: set[VolumeId] = set()
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                try:
                    found.add(parse_volume_id(path.name.partition(".")[0]))
                except InvalidArgumentError:
                    continue
        return sorted(found)


@contextmanager
def _translated(volume_id: VolumeId) -> Iterator[None]:
    try:
        yield
    except ext4.Ext4Error as error:
        raise UnavailableError(
            "The host cannot give the volume",
            details=f"{volume_id}: {error}",
            resolution="Volumes need loop devices and ext4: `losetup -f` and `mkfs.ext4` have to work there.",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhaustedError(
                "The host's disk is full", details=str(error), reason=Reason.DISK_FULL
            ) from error
        raise UnavailableError("The host cannot give the volume", details=f"{volume_id}: {error}") from error
