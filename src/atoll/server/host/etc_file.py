"""What keeps a file in /etc from being changed, and what to do about it."""

import errno
from pathlib import Path
from typing import Self


class EtcFileError(Exception):
    """The file cannot be changed: why, and what to do."""

    def __init__(self, message: str, resolution: str) -> None:
        super().__init__(message)
        self.resolution = resolution

    @classmethod
    def refused(cls, path: Path, error: OSError) -> Self:
        """Say why the kernel refused it."""
        match error.errno:
            case errno.EPERM:
                return cls(
                    f"{path} is immutable",
                    f"`lsattr {path}` shows it; `chattr -i {path}` lets it be changed.",
                )
            case errno.EROFS:
                return cls(
                    f"{path} is on a file system that is read-only", "Mount a file of your own over it."
                )
            case _:
                return cls(f"{path}: {error.strerror}", "Look at the file and its rights.")
