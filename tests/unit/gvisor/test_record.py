"""machine.json: what the next server finds of a sandbox."""

from dataclasses import replace
from pathlib import Path

import pytest

from atoll.server.domain.ids import SandboxId
from atoll.server.host.pidfd import ProcessId
from atoll.server.runtimes.gvisor.record import Record, directories

RECORD = Record(
    sandbox_id=SandboxId("i" + "a" * 20),
    boot_id="b",
    runsc="/runsc",
    memory_bytes=1,
    address="10.0.0.2",
    sentry=ProcessId(pid=2, start_time=3),
    gofer=ProcessId(pid=4, start_time=5),
    ready_at=6,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    RECORD.write(tmp_path)

    assert Record.read(tmp_path) == RECORD


def test_a_start_that_was_cut_off_has_no_processes(tmp_path: Path) -> None:
    half = replace(RECORD, sentry=None, gofer=None, address=None)
    half.write(tmp_path)

    assert Record.read(tmp_path) == half


def test_writing_again_replaces_all_at_once(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    replace(RECORD, ready_at=7).write(tmp_path)

    assert Record.read(tmp_path) == replace(RECORD, ready_at=7)
    assert [path.name for path in tmp_path.iterdir()] == ["machine.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"format": 1}', b'{"format": 2, "sandbox_id": "x"}', b"\xff\xfe", b'"x"'],
)
def test_what_cannot_be_understood_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "machine.json").write_bytes(content)

    assert Record.read(tmp_path) is None


def test_no_record_is_nothing(tmp_path: Path) -> None:
    assert Record.read(tmp_path) is None


def test_only_directories_are_sandboxes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "one")

    assert [path.name for path in directories(tmp_path)] == ["one"]
    assert directories(tmp_path / "none") == []
