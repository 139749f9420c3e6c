"""
Makes moves of processes between control groups quick, on cgroup v1.

A move takes a lock that every fork and exit reads. It is made for being read: the first move after a pause
waits for a grace period of the kernel's (RCU), 10 to 20 ms, and those that follow within milliseconds do not.
runsc moves itself into the group of a new sandbox and out again, in some ten hierarchies, while the start
waits. With the lock kept between two moves meanwhile, by moving ourselves to where we are, starts took 106 ms
instead of 134. On v2 a process is born in its group, and there is no move.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from atoll.server.host.cgroup_base import MOUNT, CgroupError, join, write_text

# A hierarchy whose moves do nothing but take the lock.
_HIERARCHY = "freezer"
# Well below the grace period after which the lock returns to its quick state for readers. One takes 20 us.
_PAUSE_S = 0.005


class QuickMoves:
    """One for a process; any number may want quick moves at once."""

    def __init__(self, mount: Path = MOUNT) -> None:
        self._top = mount / _HIERARCHY
        self._wanted = 0
        self._stop = threading.Event()

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """Have moves quick during the block, soon after its beginning; without effect where that fails."""
        self._wanted += 1
        if self._wanted == 1:
            self._begin()
        try:
            yield
        finally:
            self._wanted -= 1
            if self._wanted == 0:
                self._stop.set()

    def _begin(self) -> None:
        if not (file := self._own()):
            return
        # Each thread has an event of its own: an old one may still be on its last round.
        self._stop = threading.Event()
        threading.Thread(target=_move, args=(file, self._stop), name="quick moves", daemon=True).start()

    def _own(self) -> Path | None:
        try:
            for line in Path("/proc/self/cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if _HIERARCHY in controllers.split(","):
                    file = join(self._top, path) / "cgroup.procs"
                    return file if file.exists() else None
        except OSError:
            pass
        return None


def _move(file: Path, stop: threading.Event) -> None:
    own = str(os.getpid())
    while not stop.is_set():
        try:
            write_text(file, own)
        except CgroupError:
            return
        stop.wait(_PAUSE_S)
