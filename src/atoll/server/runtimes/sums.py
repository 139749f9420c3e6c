"""
Checksums of images, each computed once in a while, however many machines are restored from it.

What was computed counts for the very file, as long as nobody wrote it: its number, size and times are the
same. A disk that loses bytes by itself is noticed when it no longer counts.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from atoll.server.runtimes import images

# The ten machines of a fork, and the creates of a busy minute, read what was looked at a moment ago.
KEEP_S = 60.0

_State = tuple[int, int, int, int, int]


@dataclass(kw_only=True)
class _Known:
    since: float
    sum: str | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)


class Sums:
    """Those of one runtime. Blocks, and may be used by any number of threads at once."""

    def __init__(self, *, keep_s: float = KEEP_S, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            keep_s: how long one counts, in seconds.
            now: the time, in seconds.
        """
        self._keep_s = keep_s
        self._now = now
        self._known: dict[_State, _Known] = {}
        self._lock = threading.Lock()

    def of(self, path: Path, is_stopped: Callable[[], bool] = lambda: False) -> str:
        """
        Return a file's SHA-256, hexadecimal; of who asks at the same time, one reads it.

        Args:
            path: the file.
            is_stopped: true: of no matter what part of it, which counts for nobody else.

        Raises:
            OSError: it cannot be read.
        """
        state, now = _state(path), self._now()
        with self._lock:
            self._known = {key: one for key, one in self._known.items() if now - one.since < self._keep_s}
            known = self._known.setdefault(state, _Known(since=now))
        with known.turn:
            if known.sum is not None:
                return known.sum
            found = images.sum_of(path, is_stopped)
            if _state(path) == state and not is_stopped():
                known.sum = found
            return found


def _state(path: Path) -> _State:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
