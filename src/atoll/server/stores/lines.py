"""Lines of logs in files: one for each sandbox, a line of JSON for each line."""

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.logs import Level, Line
from atoll.server.ports.lines import Lines
from atoll.server.stores.kept_files import appending, forget_files, replace_with, translated

_SUFFIX = ".lines"
# Fewer bytes hold not even one of the longest lines.
_LEAST_BYTES = 64 * 1024


class FileLines(Lines):
    """Lines in a directory of their own."""

    def __init__(self, directory: Path, *, most_bytes: int) -> None:
        """
        Args:
            directory: made when it is needed.
            most_bytes: of one sandbox, at least 64 KiB; when they are reached, the oldest quarter goes.
        """
        self._directory = directory
        self._most = max(most_bytes, _LEAST_BYTES)

    @override
    async def add(self, sandbox_id: SandboxId, lines: Sequence[Line]) -> None:
        await asyncio.to_thread(self._add, self._file(sandbox_id), lines)

    @override
    async def read(self, sandbox_id: SandboxId) -> Sequence[Line]:
        return await asyncio.to_thread(self._read, self._file(sandbox_id))

    @override
    async def forget(self, *, before: datetime, most_bytes: int) -> int:
        return await asyncio.to_thread(forget_files, self._directory, before=before, most_bytes=most_bytes)

    def _add(self, file: Path, lines: Sequence[Line]) -> None:
        content = b"".join(_packed(line) for line in lines)
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            with appending(file) as fd:
                size = os.fstat(fd).st_size
                if (
                    size and os.pread(fd, 1, size - 1) != b"\n"
                ):  # the disk was full, or the machine lost its power
                    content = b"\n" + content
                while content:
                    content = content[os.write(fd, content) :]
                size = os.fstat(fd).st_size
            if size > self._most:
                newest = file.read_bytes()[-(self._most - self._most // 4) :]
                replace_with(file, newest.partition(b"\n")[2])
        except OSError as error:
            raise translated(error) from error

    def _read(self, file: Path) -> Sequence[Line]:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise translated(error) from error
        lines = (_unpacked(text) for text in content.split(b"\n"))
        return [line for line in lines if line is not None]

    def _file(self, sandbox_id: SandboxId) -> Path:
        return self._directory / f"{sandbox_id}{_SUFFIX}"


def _packed(line: Line) -> bytes:
    value = [
        line.number,
        round(line.at.timestamp() * 1000),
        line.level.value,
        line.message,
        dict(line.fields),
    ]
    # ASCII: half a character cannot be written.
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _unpacked(text: bytes) -> Line | None:
    try:
        number, milliseconds, level, message, fields = json.loads(text)
        at = datetime.fromtimestamp(milliseconds / 1000, UTC)
        return Line(number=number, at=at, level=Level(level), message=message, fields=fields)
    except (ValueError, TypeError, OverflowError, OSError):  # half a line
        return None
