"""
Packs checkpoints behind everybody else, and keeps their raw copies as a cache.

What is to be done is read off the directories each time, so whoever is killed leaves nothing to remember. A
checkpoint is complete at every moment: its images are removed once the index of their runs is on the disk.
"""

import shutil
from pathlib import Path

import structlog
from typing_extensions import override

from atoll.server.control.storage_limits import StorageLimits
from atoll.server.domain.errors import AtollError, NotFoundError
from atoll.server.host.blobs import BlobsError, BlobsProgram
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.checkpoints import Packing
from atoll.server.ports.clock import Clock
from atoll.server.runtimes import images, packed
from atoll.server.runtimes.kept import CheckpointFiles

log = structlog.get_logger(__name__)

# A pack that a killed server left ends by itself within moments.
PATIENCE_S = 10.0
# What is wrong with the store or this host, whichever checkpoint it is.
_PASSING = frozenset({"full", "denied", "busy", "unavailable"})
# For a small one: the program starts behind all others.
_PACK_TIMEOUT_S = 60.0


class Packer(Packing):
    """Packs the checkpoints of one home."""

    def __init__(
        self, files: CheckpointFiles, blobs: BlobsProgram, *, limits: StorageLimits, clock: Clock
    ) -> None:
        self._files = files
        self._blobs = blobs
        self._limits = limits
        self._clock = clock
        # Those of this server's time that cannot be packed, by what is wrong with them.
        self._refused: dict[str, str] = {}
        # Whatever a killed server left is swept once.
        self._swept_at = -1

    @override
    async def pack_next(self) -> bool:
        if not self._limits.pack:
            return False
        name = await finish_in_thread(self._next)
        if name is None:
            return False
        try:
            await self._pack(name)
        except NotFoundError:
            log.info("checkpoint not packed: it is gone", name=name)
        except AtollError as error:
            if not _passes(error):
                # One that cannot be packed keeps no other from it.
                self._refused[name] = str(error)
            raise
        return True

    @override
    async def drop_raw(self) -> None:
        paths = await finish_in_thread(self._raw_ones)
        total = sum(size for size, _ in paths)
        for size, path in paths:
            if total <= self._limits.raw_bytes and self._has_room():
                return
            if await self._files.drop_raw(path.name):
                total -= size
                log.info("raw copy dropped", name=path.name, bytes=size)

    @override
    async def sweep(self) -> None:
        removals = self._files.removals
        if removals == self._swept_at:
            return
        try:
            swept = await self._blobs.sweep(
                self._files.directory,
                dry=False,
                patience_s=PATIENCE_S,
                timeout_s=self._limits.sweep_timeout.total_seconds(),
            )
        except BlobsError as error:
            raise packed.translate(error, "runs") from error
        self._swept_at = removals
        if swept.freed_runs:
            log.info("runs removed", number=swept.freed_runs, bytes=swept.freed_bytes)

    async def _pack(self, name: str) -> None:
        path = self._files.path(name)
        # The index is made of what the manifest says, or not at all.
        checkpoint = await finish_in_thread(images.seal, path)
        files = [(file.name, file.size, file.sha256) for file in checkpoint.files]
        timeout_s = _PACK_TIMEOUT_S + checkpoint.size / max(self._limits.pack_bytes_a_second, 1)
        try:
            done = await self._blobs.pack(path, files, patience_s=PATIENCE_S, timeout_s=timeout_s)
        except BlobsError as error:
            raise packed.translate(error, name) from error
        log.info(
            "checkpoint packed",
            name=name,
            bytes=done.raw_bytes,
            new_bytes=done.new_bytes,
            kept_bytes=done.put_bytes,
            shared=round(1 - done.new_bytes / max(done.raw_bytes, 1), 3),
        )

    def _next(self) -> str | None:
        """Name the oldest that is neither packed nor young."""
        before = (self._clock.now() - self._limits.pack_after).timestamp()
        pinned = self._files.pinned
        found: list[tuple[float, str]] = []
        for path in self._files.entries():
            if path.name.startswith(".") or path.name in pinned or path.name in self._refused:
                continue
            if packed.is_packed(path):
                continue
            try:
                written = (path / images.MANIFEST).stat().st_mtime
            except OSError:
                continue
            if written <= before:
                found.append((written, path.name))
        return min(found)[1] if found else None

    def _raw_ones(self) -> list[tuple[int, Path]]:
        """List those with raw copies, and what these take: those not used for the longest time first."""
        paths = [path for path in self._files.entries() if not path.name.startswith(".")]
        sized = [(size, path) for path in paths if (size := packed.raw_bytes(path))]
        return sorted(sized, key=lambda one: packed.used_at(one[1]))

    def _has_room(self) -> bool:
        return shutil.disk_usage(self._files.directory).free >= self._limits.reserve_bytes


def _passes(error: AtollError) -> bool:
    cause = error.__cause__
    return isinstance(cause, BlobsError) and cause.kind in _PASSING
