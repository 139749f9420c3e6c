"""Checkpoints on this host's disk; what packs and unpacks their images is atoll-blobs."""

import asyncio
import errno
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import structlog
from typing_extensions import override

from atoll.server.control.storage_limits import StorageLimits
from atoll.server.domain.errors import NotFoundError, Reason, ResourceExhaustedError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.host.blobs import BlobsError, BlobsProgram
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.runtimes import images, packed
from atoll.server.runtimes.images import HALF, synced

# While a second name is made. Not HALF: files in there may be cut to nothing, and these are another's, too.
_LINKING = ".link-"

log = structlog.get_logger(__name__)


class CheckpointFiles(Checkpoints):
    """Those of one home."""

    def __init__(
        self, directory: Path, *, blobs: BlobsProgram | None = None, limits: StorageLimits | None = None
    ) -> None:
        """
        Args:
            directory: for root only; made by ``keep_only``.
            blobs: unpacks; None: nothing is packed.
            limits: how long that may take, and what it leaves free.
        """
        self.directory = directory
        # How many have gone: runs that only they named are of no use.
        self.removals = 0
        self._blobs = blobs
        self._limits = limits or StorageLimits()
        self._held = Counter[str]()
        self._pinned = set[str]()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._removing = asyncio.Lock()

    @override
    def path(self, name: str) -> Path:
        return self.directory / name

    @override
    @asynccontextmanager
    async def raw(self, name: str) -> AsyncIterator[Path]:
        self._held[name] += 1
        try:
            async with self._turn(name):
                await self._unpack(name)
            yield self.path(name)
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    @override
    def pin(self, name: str) -> None:
        self._pinned.add(name)

    @override
    def unpin(self, name: str) -> None:
        self._pinned.discard(name)

    @property
    def pinned(self) -> frozenset[str]:
        """Those that stay raw."""
        return frozenset(self._pinned)

    @override
    async def names(self) -> frozenset[str]:
        return await finish_in_thread(self._names)

    @override
    async def link(self, origin: str, name: str) -> None:
        await finish_in_thread(self._link, self.path(origin), name)

    @override
    async def remove(self, name: str) -> None:
        await self._remove(lambda one: one == name)

    @override
    async def remove_all(self, sandbox_id: SandboxId) -> None:
        await self._remove(lambda one: bare(one).startswith(f"{sandbox_id}-"))

    @override
    async def keep_only(self, names: frozenset[str]) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = names | self._pinned
        await self._remove(lambda one: one not in kept)
        await finish_in_thread(self._tidy)

    async def drop_raw(self, name: str) -> bool:
        """Remove the raw copies of a packed one, unless somebody uses it or it is pinned: then False."""
        async with self._turn(name):
            if self._held[name] or name in self._pinned:
                return False
            return await finish_in_thread(packed.drop, self.path(name))

    def entries(self) -> list[Path]:
        """List all there is, complete or not."""
        return list(self.directory.iterdir()) if self.directory.exists() else []

    async def remove_entries(self, names: frozenset[str]) -> None:
        """Remove entries by their very names; errors as for ``remove``."""
        await self._remove(lambda one: one in names)

    def _turn(self, name: str) -> asyncio.Lock:
        """One at a time unpacks or drops: those who want it at the same time share the work."""
        return self._turns.setdefault(name, asyncio.Lock())

    async def _unpack(self, name: str) -> None:
        path, blobs = self.path(name), self._blobs
        if blobs is None or not packed.is_packed(path):
            return
        missing = await finish_in_thread(packed.lacking, path)
        if missing:
            size = sum(one.size for one in images.read_manifest(path).files if one.name in missing)
            self._check_room(size)
            limits = self._limits
            timeout_s = limits.unpack_timeout.total_seconds() + size / max(limits.unpack_bytes_a_second, 1)
            try:
                await blobs.unpack(path, missing, timeout_s=timeout_s)
            except BlobsError as error:
                raise packed.translate(error, name) from error
            log.info("checkpoint unpacked", name=name, bytes=size)
        await finish_in_thread(packed.mark_used, path)

    def _check_room(self, size: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if free < size + self._limits.reserve_bytes:
            raise ResourceExhaustedError(
                "The host's disk is full",
                details=f"{free} bytes are free at {self.directory}; unpacking takes {size}, and "
                f"storage.reserve_bytes = {self._limits.reserve_bytes} stay free",
                resolution="remove what is not needed, or move the home to a larger disk",
                reason=Reason.DISK_FULL,
            )

    def _names(self) -> frozenset[str]:
        return frozenset(path.name for path in self.entries() if not path.name.startswith("."))

    def _tidy(self) -> None:
        for path in self.entries():
            for left in packed.leftovers(path):
                left.unlink(missing_ok=True)

    def _link(self, origin: Path, name: str) -> None:
        self._remove_now(lambda one: one in (name, _LINKING + name))
        half = self.path(_LINKING + name)
        try:
            half.mkdir(mode=0o700)
            for file in origin.iterdir():
                # One that is renamed meanwhile is the same under its new name.
                if not file.name.startswith("."):
                    os.link(file, half / file.name)
            synced(half)
            half.rename(self.path(name))
            synced(self.directory)
        except FileNotFoundError as error:
            self._remove_now(lambda one: one == _LINKING + name)
            raise NotFoundError("There is no such checkpoint", details=str(origin)) from error
        except OSError as error:
            self._remove_now(lambda one: one == _LINKING + name)
            if error.errno == errno.ENOSPC:
                raise ResourceExhaustedError(
                    "The host's disk is full", details=str(error), reason=Reason.DISK_FULL
                ) from error
            raise UnavailableError("A checkpoint cannot be kept twice", details=str(error)) from error

    async def _remove(self, which: Callable[[str], bool]) -> None:
        # Two at once would each find half of the other's work.
        async with self._removing:
            self.removals += await finish_in_thread(self._remove_now, which)

    def _remove_now(self, which: Callable[[str], bool]) -> int:
        number = 0
        try:
            for path in self.entries():
                if which(path.name):
                    # First the name: a half-removed one is never taken for a checkpoint.
                    going = path.with_name(HALF + bare(path.name))
                    shutil.rmtree(path.replace(going) if going != path else path)
                    number += 1
        except OSError as error:
            raise UnavailableError("A checkpoint cannot be removed", details=str(error)) from error
        return number


def bare(name: str) -> str:
    """Return what an entry is, or is to be, called."""
    return name.removeprefix(HALF).removeprefix(_LINKING)
