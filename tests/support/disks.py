"""Small disks for tests: what is full there harms nobody."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(place: Path, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes at a place, which is made."""
    image = place.with_suffix(".ext4")
    place.mkdir()
    subprocess.run(["truncate", f"--size={size}", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


class Filler:
    """A file that takes the room that a disk has."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._file = disk / "filler"

    def fill(self, *, but: int = 0) -> None:
        """Take all the room, but so many bytes; what others gave back since is taken, too."""
        fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        try:
            for chunk in (1 << 20, 1 << 12):
                data = b"\1" * chunk
                while self._free() >= but + chunk or not but:
                    os.write(fd, data)
                    os.fdatasync(fd)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            if len(data) > 1 << 12:
                self._last_blocks(fd)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Give all of it back; a no-op when there is none."""
        self._file.unlink(missing_ok=True)

    def _last_blocks(self, fd: int) -> None:
        try:
            while True:
                os.write(fd, b"\1" * (1 << 12))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def _free(self) -> int:
        return shutil.disk_usage(self._disk).free
