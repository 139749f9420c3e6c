"""
Reads what machines use: from files of the host's kernel only, so that an idle guest sleeps on.

Most machines idle most of the time. Of one that had no processor since it was read, only that is read: it
can have taken and written nothing. What the kernel does to it (caches of files go) is seen up to 30 s later.

Called from threads. Where a sentry holds the overlay's file is looked up once for each machine.
"""

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Usage
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.runtimes.gvisor.running import Running

# What st_blocks counts, on every file system.
_BLOCK = 512
# How long a reading may stand for one that had no processor since.
_STANDS_S = 30.0


@dataclass(frozen=True, kw_only=True)
class _Overlay:
    """Where the sentry holds its file, and which that is: the number may be another's one day."""

    descriptor: Path
    device: int
    inode: int


class UsageReader:
    """Knows where to look."""

    def __init__(self) -> None:
        self._overlays: dict[SandboxId, _Overlay] = {}
        # What was read, and when.
        self._last: dict[SandboxId, tuple[Usage, float]] = {}

    def read(self, running: Running) -> Usage:
        """
        Read what one machine uses.

        Raises:
            CgroupError: its group is gone.
        """
        return self._read(running, running.cgroup.cpu_seconds())

    def read_all(self, machines: Iterable[Running]) -> Mapping[SandboxId, Usage]:
        """Read what many machines use, without those that are gone."""
        found = {}
        now = time.monotonic()
        for running in machines:
            sandbox_id = running.record.sandbox_id
            try:
                cpu_seconds = running.cgroup.cpu_seconds()
                usage, read_at = self._last.get(sandbox_id, (None, 0.0))
                if usage is None or usage.cpu_seconds != cpu_seconds or now - read_at >= _STANDS_S:
                    usage = self._read(running, cpu_seconds)
                    self._last[sandbox_id] = usage, now
            except CgroupError:
                continue
            found[sandbox_id] = usage
        for known in (self._overlays, self._last):
            for gone in known.keys() - found.keys():
                known.pop(gone, None)
        return found

    def _read(self, running: Running, cpu_seconds: float) -> Usage:
        resident, cache = running.cgroup.memory_use()
        return Usage(
            # Read before the rest: what is used meanwhile makes the next reading a full one.
            cpu_seconds=cpu_seconds,
            memory_bytes=resident,
            cache_bytes=cache,
            disk_bytes=self._overlay_bytes(running),
        )

    def _overlay_bytes(self, running: Running) -> int:
        """Read the size of the upper layer's file, which has no name: the sentry holds it."""
        known = self._overlays.get(running.record.sandbox_id)
        if known is not None and (size := _size(known)) is not None:
            return size
        if running.record.sentry is None:
            return 0
        overlay = _find(Path(f"/proc/{running.record.sentry.pid}/fd"), f"{running.directory.overlay}/")
        if overlay is None:
            return 0
        self._overlays[running.record.sandbox_id] = overlay
        return _size(overlay) or 0


def _find(descriptors: Path, prefix: str) -> _Overlay | None:
    """Find the open file that is one below ``prefix``."""
    try:
        for descriptor in descriptors.iterdir():
            # One may be closed meanwhile.
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()).startswith(prefix):
                    status = descriptor.stat()
                    return _Overlay(descriptor=descriptor, device=status.st_dev, inode=status.st_ino)
    except OSError:
        pass
    return None


def _size(overlay: _Overlay) -> int | None:
    """Return the room that the file takes; None: it is not there any more."""
    try:
        status = overlay.descriptor.stat()
    except OSError:
        return None
    if (status.st_dev, status.st_ino) != (overlay.device, overlay.inode):
        return None
    return status.st_blocks * _BLOCK
