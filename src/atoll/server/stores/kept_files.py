"""Files of one kind in a directory of their own, one for each sandbox: appended to, and forgotten in time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from atoll.server.domain.errors import AtollError, InternalError, Reason, ResourceExhaustedError

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def appending(file: Path) -> Iterator[int]:
    """Open a file for its owner, at its end, and give its descriptor."""
    fd = os.open(file, _FLAGS, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def replace_with(file: Path, content: bytes) -> None:
    """Give a file another content, in one step."""
    shorter = file.with_suffix(".new")
    shorter.write_bytes(content)
    shorter.chmod(0o600)
    shorter.replace(file)


def forget_files(directory: Path, *, before: datetime, most_bytes: int) -> int:
    """
    Remove files that were last written before, then the oldest until all take no more; return how many.

    Raises:
        AtollError: the directory cannot be read, or a file not removed.
    """
    try:
        return _forget(directory, before, most_bytes)
    except FileNotFoundError:
        # There is no directory yet.
        return 0
    except OSError as error:
        raise translated(error) from error


def _forget(directory: Path, before: datetime, most_bytes: int) -> int:
    files = []
    for file in directory.iterdir():
        # One may go meanwhile: what another content is written to, say.
        with suppress(FileNotFoundError):
            files.append((file, file.stat()))
    files.sort(key=lambda pair: pair[1].st_mtime)
    kept = sum(status.st_size for _, status in files)
    forgotten = 0
    for file, status in files:
        if status.st_mtime >= before.timestamp() and kept <= most_bytes:
            break
        file.unlink(missing_ok=True)
        kept -= status.st_size
        forgotten += 1
    return forgotten


def translated(error: OSError) -> AtollError:
    """Say what is wrong with a file of this kind."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhaustedError(
            "The server's disk is full", details=str(error), reason=Reason.DISK_FULL
        )
    return InternalError("What is kept about a sandbox cannot be written or read", details=str(error))
