"""
Samples in files: one for each sandbox, records of one length in the order of their taking.

No rows: a thousand sandboxes make 200 samples a second, each of which would touch a page of an index.
A record is appended by one write, so that a server that is killed leaves whole ones.
"""

import asyncio
import os
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.metrics import Sample
from atoll.server.ports.samples import Samples
from atoll.server.stores.kept_files import appending, forget_files, replace_with, translated

# Milliseconds since 1970, microseconds of processor, memory, cache, disk.
_RECORD = struct.Struct("<5Q")
_LARGEST = 2**64 - 1
_SUFFIX = ".samples"


class FileSamples(Samples):
    """Samples in a directory of their own."""

    def __init__(self, directory: Path, *, kept: int) -> None:
        """
        Args:
            directory: made when it is needed.
            kept: samples of one sandbox, at least 4; when they are reached, the oldest quarter goes.
        """
        self._directory = directory
        self._kept = max(kept, 4)

    @override
    async def add(self, taken: Mapping[SandboxId, Sample]) -> None:
        await asyncio.to_thread(self._add, taken)

    @override
    async def read(
        self, sandbox_id: SandboxId, *, start: datetime | None = None, end: datetime | None = None
    ) -> Sequence[Sample]:
        samples = await asyncio.to_thread(self._read, sandbox_id, self._kept)
        if end is not None:
            samples = [sample for sample in samples if sample.at <= end]
        if start is None:
            return samples
        first = next((number for number, sample in enumerate(samples) if sample.at >= start), len(samples))
        return samples[max(first - 1, 0) :]

    @override
    async def last(
        self, sandbox_ids: Sequence[SandboxId], number: int
    ) -> Mapping[SandboxId, Sequence[Sample]]:
        return await asyncio.to_thread(self._last, sandbox_ids, number)

    @override
    async def forget(self, *, before: datetime, most_bytes: int) -> int:
        return await asyncio.to_thread(forget_files, self._directory, before=before, most_bytes=most_bytes)

    def _add(self, taken: Mapping[SandboxId, Sample]) -> None:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for sandbox_id, sample in taken.items():
                self._append(self._file(sandbox_id), _packed(sample))
        except OSError as error:
            raise translated(error) from error

    def _append(self, file: Path, record: bytes) -> None:
        with appending(file) as fd:
            size = os.fstat(fd).st_size
            if torn := size % _RECORD.size:  # the disk was full, or the machine lost its power
                os.ftruncate(fd, size - torn)
            os.write(fd, record)
        if size >= self._kept * _RECORD.size:
            newest = (self._kept - self._kept // 4) * _RECORD.size
            replace_with(file, file.read_bytes()[-newest:])

    def _read(self, sandbox_id: SandboxId, number: int) -> list[Sample]:
        try:
            with self._file(sandbox_id).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(size // _RECORD.size - number, 0) * _RECORD.size)
                content = file.read(number * _RECORD.size)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise translated(error) from error
        whole = len(content) - len(content) % _RECORD.size
        return [_unpacked(record) for record in _RECORD.iter_unpack(content[:whole]) if _makes_sense(record)]

    def _last(self, sandbox_ids: Sequence[SandboxId], number: int) -> Mapping[SandboxId, Sequence[Sample]]:
        found = {sandbox_id: self._read(sandbox_id, number) for sandbox_id in sandbox_ids}
        return {sandbox_id: samples for sandbox_id, samples in found.items() if samples}

    def _file(self, sandbox_id: SandboxId) -> Path:
        return self._directory / f"{sandbox_id}{_SUFFIX}"


def _packed(sample: Sample) -> bytes:
    values = (
        round(sample.at.timestamp() * 1000),
        round(sample.cpu_seconds * 1_000_000),
        sample.memory_bytes,
        sample.cache_bytes,
        sample.disk_bytes,
    )
    return _RECORD.pack(*(min(max(value, 0), _LARGEST) for value in values))


def _makes_sense(record: tuple[int, ...]) -> bool:
    # A machine that lost its power leaves zeros. The year 2286 is far enough.
    return 0 < record[0] < 10**13


def _unpacked(record: tuple[int, ...]) -> Sample:
    milliseconds, microseconds, memory, cache, disk = record
    return Sample(
        at=datetime.fromtimestamp(milliseconds / 1000, UTC),
        cpu_seconds=microseconds / 1_000_000,
        memory_bytes=memory,
        cache_bytes=cache,
        disk_bytes=disk,
    )
