"""Files of lines: bounded, whole after a crash, and gone in time."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atoll.server.domain.errors import ResourceExhaustedError
from atoll.server.domain.ids import new_sandbox_id
from atoll.server.domain.logs import Level, Line
from atoll.server.stores.lines import FileLines

START = datetime(2026, 1, 1, tzinfo=UTC)
LEAST = 64 * 1024


def line(number: int) -> Line:
    return Line(
        number=number,
        at=START + timedelta(milliseconds=number),
        level=Level.WARN,
        message=f"Zeile {number} 日本",
        fields={"pid": str(number)},
    )


async def test_what_was_kept_is_read_by_the_next_server(tmp_path: Path) -> None:
    sandbox_id = new_sandbox_id()
    await FileLines(tmp_path / "logs", most_bytes=LEAST).add(sandbox_id, [line(1), line(2)])
    await FileLines(tmp_path / "logs", most_bytes=LEAST).add(sandbox_id, [line(3)])

    found = await FileLines(tmp_path / "logs", most_bytes=LEAST).read(sandbox_id)

    assert list(found) == [line(1), line(2), line(3)]
    assert await FileLines(tmp_path / "logs", most_bytes=LEAST).read(new_sandbox_id()) == []
    [file] = (tmp_path / "logs").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


async def test_one_sandbox_keeps_a_bounded_number_of_bytes_the_newest(tmp_path: Path) -> None:
    lines, sandbox_id = FileLines(tmp_path / "logs", most_bytes=1), new_sandbox_id()
    for first in range(0, 5000, 100):
        await lines.add(sandbox_id, [line(number) for number in range(first, first + 100)])

    found = await lines.read(sandbox_id)

    [file] = (tmp_path / "logs").iterdir()
    assert file.stat().st_size <= LEAST
    assert list(found) == [line(number) for number in range(5000 - len(found), 5000)]
    assert len(found) > 100


async def test_half_a_line_is_passed_over_and_the_next_is_whole(tmp_path: Path) -> None:
    lines, sandbox_id = FileLines(tmp_path / "logs", most_bytes=LEAST), new_sandbox_id()
    await lines.add(sandbox_id, [line(1)])
    [file] = (tmp_path / "logs").iterdir()
    with file.open("ab") as opened:
        opened.write(b"[2,17672256")

    await lines.add(sandbox_id, [line(3)])

    assert list(await lines.read(sandbox_id)) == [line(1), line(3)]


async def test_old_files_are_forgotten(tmp_path: Path) -> None:
    lines, old, young = FileLines(tmp_path / "logs", most_bytes=LEAST), new_sandbox_id(), new_sandbox_id()
    await lines.add(old, [line(1)])
    await lines.add(young, [line(1)])
    os.utime(tmp_path / "logs" / f"{old}.lines", (1000, 1000))

    assert await lines.forget(before=datetime.fromtimestamp(2000, UTC), most_bytes=10**9) == 1
    assert await lines.read(old) == []
    assert await lines.forget(before=START, most_bytes=0) == 1
    assert await lines.read(young) == []


async def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, record: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)

    with pytest.raises(ResourceExhaustedError):
        await FileLines(tmp_path / "logs", most_bytes=LEAST).add(new_sandbox_id(), [line(1)])
