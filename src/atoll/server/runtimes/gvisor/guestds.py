"""
Keeps guestd's program for as long as something may need that very one.

Pages of a program that runs are read from its file again, also after a restore, and the file's pages are not
in a checkpoint: with another build in its place guestd would crash. So sandboxes do not run the program that
an update replaces, but a copy of it, named after its content, which stays.

Everything here blocks.
"""

import hashlib
import os
import shutil
from pathlib import Path

from atoll.server.domain.errors import FailedPreconditionError

_MODE = 0o555


class Guestds:
    """The copies of one home."""

    def __init__(self, directory: Path, program: Path) -> None:
        """
        Args:
            directory: where copies are; made when the first one is.
            program: the one of today.
        """
        self._directory = directory
        self._program = program
        self._today: str | None = None

    def today(self) -> str:
        """
        Name the program of today, of which there is a copy on return: its SHA-256, hexadecimal.

        Raises:
            OSError: it cannot be read, or its copy not be written.
        """
        if self._today is None:
            with self._program.open("rb") as file:
                name = hashlib.file_digest(file, "sha256").hexdigest()
            if not self._path(name).exists():
                self._copy(name)
            self._today = name
        return self._today

    def find(self, name: str) -> Path:
        """
        Return the path of a copy.

        Raises:
            FailedPreconditionError: it is not kept here.
        """
        path = self._path(name)
        if not path.is_file():
            raise FailedPreconditionError(
                f"guestd {name[:12]} is not kept here",
                details=f"there is no {path}",
                resolution="restore where the checkpoint was made, or only its files",
            )
        return path

    def copies(self) -> list[Path]:
        """List the copies."""
        return sorted(self._directory.glob("[!.]*"))

    def _path(self, name: str) -> Path:
        return self._directory / name

    def _copy(self, name: str) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._directory / f".{name}.new"
        try:
            shutil.copyfile(self._program, new)
            new.chmod(_MODE)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.rename(self._path(name))
        finally:
            new.unlink(missing_ok=True)
