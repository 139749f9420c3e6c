"""
Reads what machines use: from files of the host's kernel only, so that an idle guest sleeps on.

Called from threads. Where a sentry holds the overlay's file is looked up once for each machine.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Usage
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.runtimes.gvisor.running import Running

# What st_blocks counts, on every file system.
_BLOCK = 512


class UsageReader:
    """Knows where to look."""

    def __init__(self) -> None:
        self._overlays: dict[SandboxId, Path] = {}

    def read(self, running: Running) -> Usage:
        """
        Read what one machine uses.

        Raises:
            CgroupError: its group is gone.
        """
        resident, cache = running.cgroup.memory_use()
        return Usage(
            cpu_seconds=running.cgroup.cpu_seconds(),
            memory_bytes=resident,
            cache_bytes=cache,
            disk_bytes=self._overlay_bytes(running),
        )

    def read_all(self, machines: Iterable[Running]) -> Mapping[SandboxId, Usage]:
        """Read what many machines use, without those that are gone."""
        found = {}
        for running in machines:
            try:
                found[running.record.sandbox_id] = self.read(running)
            except CgroupError:
                continue
        for gone in self._overlays.keys() - found.keys():
            self._overlays.pop(gone, None)
        return found

    def _overlay_bytes(self, running: Running) -> int:
        """Read the size of the upper layer's file, which has no name: the sentry holds it."""
        prefix = f"{running.directory.overlay}/"
        known = self._overlays.get(running.record.sandbox_id)
        if known is not None and (size := _size(known, prefix)) is not None:
            return size
        if running.record.sentry is None:
            return 0
        try:
            for descriptor in Path(f"/proc/{running.record.sentry.pid}/fd").iterdir():
                if (size := _size(descriptor, prefix)) is not None:
                    self._overlays[running.record.sandbox_id] = descriptor
                    return size
        except OSError:
            pass
        return 0


def _size(descriptor: Path, prefix: str) -> int | None:
    """Return the room that an open file takes, if it is one below ``prefix``."""
    try:
        if not str(descriptor.readlink()).startswith(prefix):
            return None
        return descriptor.stat().st_blocks * _BLOCK
    except OSError:
        return None
