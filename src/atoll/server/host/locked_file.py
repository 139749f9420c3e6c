"""Small JSON files that several processes share: locked while used, and never seen half-written."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

# Of one holder, however many come before. It lists the routes and interfaces, 0.2 s of processor time
# with 300 sandboxes, and may remove what deleted homes left, a second more; with busy processors several
# times that. A longer hold means a stopped process.
LOCK_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.01


class LockTimeoutError(Exception):
    """One process held a lock for too long; says which file."""


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """
    Hold a lock file during the block; the kernel frees it when the process ends, however that happens.

    Blocks the calling thread, for as long as others take turns. The file is made, and stays: removing a lock
    file is a race.

    Args:
        path: the file.
        timeout_s: how long one of those before us may hold it.

    Raises:
        LockTimeoutError: one of them held it for the whole time.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(fd, path, timeout_s)
        # Those that wait see by it that the lock has gone on to another holder.
        os.utime(fd)
        yield
    finally:
        os.close(fd)


def _take(fd: int, path: Path, timeout_s: float) -> None:
    taken, end = None, 0.0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now, last = time.monotonic(), os.fstat(fd).st_mtime_ns
            if last != taken:
                taken, end = last, now + timeout_s
            elif now > end:
                raise LockTimeoutError(f"{path} is held by one process for {timeout_s} s") from None
            time.sleep(_LOOK_AGAIN_S)
        else:
            return


def write_json(path: Path, content: object) -> None:
    """
    Replace a file by one with this content, all at once.

    It survives the end of this process at any moment; a power cut it need not survive.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)


def read_json(path: Path) -> object | None:
    """
    Return a file's content, None when there is no file.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None
