"""Files of samples: bounded, whole after a crash, and gone in time."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atoll.server.domain.errors import AtollError, ResourceExhaustedError
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.domain.metrics import Sample
from atoll.server.stores.samples import FileSamples

START = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = 40


def sample(number: int) -> Sample:
    return Sample(
        at=START + timedelta(seconds=5 * number),
        cpu_seconds=number / 4,
        memory_bytes=2**40 + number,
        cache_bytes=number,
        disk_bytes=2**50,
    )


async def filled(directory: Path, number: int, kept: int = 100) -> tuple[FileSamples, SandboxId]:
    samples, sandbox_id = FileSamples(directory, kept=kept), new_sandbox_id()
    for one in range(number):
        await samples.add({sandbox_id: sample(one)})
    return samples, sandbox_id


async def test_what_was_kept_is_read_by_the_next_server(tmp_path: Path) -> None:
    _, sandbox_id = await filled(tmp_path / "metrics", 3)

    found = await FileSamples(tmp_path / "metrics", kept=100).read(sandbox_id)

    assert list(found) == [sample(0), sample(1), sample(2)]
    assert await FileSamples(tmp_path / "metrics", kept=100).read(new_sandbox_id()) == []


async def test_a_time_is_asked_for_and_comes_with_the_sample_before_it(tmp_path: Path) -> None:
    samples, sandbox_id = await filled(tmp_path / "metrics", 10)

    found = await samples.read(
        sandbox_id, start=START + timedelta(seconds=20), end=START + timedelta(seconds=30)
    )

    assert list(found) == [sample(3), sample(4), sample(5), sample(6)]
    assert await samples.read(sandbox_id, end=START - timedelta(seconds=1)) == []


async def test_one_sandbox_keeps_a_bounded_number_the_newest(tmp_path: Path) -> None:
    samples, sandbox_id = await filled(tmp_path / "metrics", 50, kept=8)

    found = await samples.read(sandbox_id)

    assert 6 <= len(found) <= 9
    assert list(found) == [sample(number) for number in range(50 - len(found), 50)]
    [file] = (tmp_path / "metrics").iterdir()
    assert file.stat().st_size <= 9 * RECORD
    assert file.stat().st_mode & 0o777 == 0o600


async def test_half_a_record_and_zeros_are_passed_over(tmp_path: Path) -> None:
    samples, sandbox_id = await filled(tmp_path / "metrics", 2)
    [file] = (tmp_path / "metrics").iterdir()
    with file.open("ab") as opened:
        opened.write(bytes(RECORD) + b"half")

    before = await samples.read(sandbox_id)
    await samples.add({sandbox_id: sample(2)})

    assert list(before) == [sample(0), sample(1)]
    assert list(await samples.read(sandbox_id)) == [sample(0), sample(1), sample(2)]


async def test_the_last_of_many_are_read_without_the_rest(tmp_path: Path) -> None:
    samples, sandbox_id = await filled(tmp_path / "metrics", 5)
    unknown = new_sandbox_id()

    found = await samples.last([sandbox_id, unknown], 2)

    assert {key: list(value) for key, value in found.items()} == {sandbox_id: [sample(3), sample(4)]}


async def test_old_files_are_forgotten_and_young_ones_kept(tmp_path: Path) -> None:
    samples, old = await filled(tmp_path / "metrics", 2)
    await samples.add({(young := new_sandbox_id()): sample(1)})
    os.utime(tmp_path / "metrics" / f"{old}.samples", (1000, 1000))

    forgotten = await samples.forget(before=datetime.fromtimestamp(2000, UTC), most_bytes=10**9)

    assert forgotten == 1
    assert await samples.read(old) == []
    assert len(await samples.read(young)) == 1


async def test_what_was_quiet_longest_makes_room(tmp_path: Path) -> None:
    samples = FileSamples(tmp_path / "metrics", kept=100)
    ids = [new_sandbox_id() for _ in range(4)]
    for number, sandbox_id in enumerate(ids):
        await samples.add({sandbox_id: sample(1)})
        os.utime(tmp_path / "metrics" / f"{sandbox_id}.samples", (1000 + number, 1000 + number))

    await samples.forget(before=datetime.fromtimestamp(0, UTC), most_bytes=2 * RECORD)

    assert [len(await samples.read(sandbox_id)) for sandbox_id in ids] == [0, 0, 1, 1]


async def test_nothing_is_forgotten_where_nothing_is(tmp_path: Path) -> None:
    assert await FileSamples(tmp_path / "none", kept=4).forget(before=START, most_bytes=0) == 0


async def test_a_file_that_cannot_be_removed_is_said(tmp_path: Path) -> None:
    samples, _ = await filled(tmp_path / "metrics", 1)
    (tmp_path / "metrics" / f"{new_sandbox_id()}.samples").mkdir()

    with pytest.raises(AtollError):
        await samples.forget(before=datetime.now(UTC) + timedelta(days=1), most_bytes=10**9)


async def test_a_file_that_goes_while_others_are_looked_at_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, old = await filled(tmp_path / "metrics", 2)
    os.utime(tmp_path / "metrics" / f"{old}.samples", (1000, 1000))
    (tmp_path / "metrics" / f"{new_sandbox_id()}.new").touch()
    stat = Path.stat

    def gone(file: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if file.suffix == ".new":
            file.unlink()
        return stat(file, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", gone)

    assert await samples.forget(before=datetime.fromtimestamp(2000, UTC), most_bytes=10**9) == 1
    assert list((tmp_path / "metrics").iterdir()) == []


async def test_a_link_in_a_files_place_is_not_followed(tmp_path: Path) -> None:
    samples, sandbox_id = await filled(tmp_path / "metrics", 1)
    [file] = (tmp_path / "metrics").iterdir()
    file.unlink()
    (tmp_path / "victim").write_text("precious")
    file.symlink_to(tmp_path / "victim")

    with pytest.raises(AtollError):
        await samples.add({sandbox_id: sample(1)})

    assert (tmp_path / "victim").read_text() == "precious"


async def test_a_full_disk_is_said_and_half_a_record_is_cut_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, sandbox_id = await filled(tmp_path / "metrics", 1)

    def full(fd: int, record: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(ResourceExhaustedError):
            await samples.add({sandbox_id: sample(1)})
    await samples.add({sandbox_id: sample(2)})

    assert list(await samples.read(sandbox_id)) == [sample(0), sample(2)]
