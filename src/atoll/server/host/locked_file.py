"""Small JSON files that several processes share: locked while used, and never seen half-written."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

# Whoever holds a lock does a few kernel calls meanwhile; a longer wait means a stopped process.
LOCK_TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.01


class LockTimeoutError(Exception):
    """Another process held a lock for too long; says which file."""


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """
    Hold a lock file during the block; the kernel frees it when the process ends, however that happens.

    Blocks the calling thread. The file is made, and stays: removing a lock file is a race.

    Raises:
        LockTimeoutError: somebody else held it for the whole time.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LockTimeoutError(f"{path} is locked by another process for {timeout_s} s") from None
                time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(fd)


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
