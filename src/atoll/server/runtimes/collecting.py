"""Finds checkpoints that no row names, what was left half-written, and runs that no checkpoint names."""

from pathlib import Path

from typing_extensions import override

from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.storage import Collected, Kind, Leftover
from atoll.server.host.blobs import BlobsError, BlobsProgram
from atoll.server.host.storage import size_on_disk
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.collector import Collector, Read
from atoll.server.runtimes.images import HALF
from atoll.server.runtimes.kept import CheckpointFiles, bare
from atoll.server.runtimes.packing import PATIENCE_S


class OldCheckpoints(Collector):
    """Those of one home, half-written ones too."""

    def __init__(self, files: CheckpointFiles) -> None:
        self._files = files

    @override
    async def collect(self, needed: Read, *, dry: bool) -> Collected:
        there = await finish_in_thread(self._files.entries)
        named = await needed()
        # What is being written is named by now.
        kept = named.checkpoints | self._files.pinned
        going = [path for path in there if bare(path.name) not in kept]
        found = [await finish_in_thread(_leftover, path) for path in going]
        problems = []
        if going and not dry:
            try:
                await self._files.remove_entries(frozenset(path.name for path in going))
            except UnavailableError as error:
                problems.append(f"{error}: {error.details}")
        return Collected(leftovers=tuple(found), problems=tuple(problems))


class OldRuns(Collector):
    """Those that no checkpoint names. A dry collection counts none of the checkpoints that it finds."""

    def __init__(self, files: CheckpointFiles, blobs: BlobsProgram, *, timeout_s: float) -> None:
        self._files = files
        self._blobs = blobs
        self._timeout_s = timeout_s

    @override
    async def collect(self, needed: Read, *, dry: bool) -> Collected:
        directory = self._files.directory
        try:
            swept = await self._blobs.sweep(
                directory, dry=dry, patience_s=PATIENCE_S, timeout_s=self._timeout_s
            )
        except BlobsError as error:
            return Collected(problems=(f"runs: {error}",))
        if not swept.freed_runs:
            return Collected()
        name = f"{swept.freed_runs} of {swept.freed_runs + swept.kept_runs}"
        return Collected(leftovers=(Leftover(kind=Kind.RUNS, name=name, size_bytes=swept.freed_bytes),))


def _leftover(path: Path) -> Leftover:
    kind = Kind.HALF if path.name.startswith(HALF) else Kind.CHECKPOINT
    return Leftover(kind=kind, name=path.name, size_bytes=size_on_disk(path))
