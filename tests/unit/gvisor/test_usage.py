"""What machines use: right for those that do something, and hardly looked for in those that idle."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from atoll.server.domain.ids import SandboxId
from atoll.server.host.cgroup_base import Cgroup, CgroupError
from atoll.server.host.pidfd import Pidfd, ProcessId
from atoll.server.runtimes.gvisor import usage
from atoll.server.runtimes.gvisor.places import Directory
from atoll.server.runtimes.gvisor.record import Record
from atoll.server.runtimes.gvisor.running import Running
from atoll.server.runtimes.gvisor.usage import UsageReader

NAME = SandboxId("i" + "a" * 20)


class CountingCgroup:
    """A control group that counts how often its memory is read."""

    def __init__(self) -> None:
        self.cpu = 1.0
        self.memory = 100
        self.reads = 0
        self.gone = False

    def cpu_seconds(self) -> float:
        if self.gone:
            raise CgroupError("read cpuacct.usage: No such file or directory")
        return self.cpu

    def memory_use(self) -> tuple[int, int]:
        self.reads += 1
        return self.memory, 7


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [0.0]
    monkeypatch.setattr(usage.time, "monotonic", lambda: moment[0])
    return moment


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A file below the overlay's directory, held by this process only."""
    directory = tmp_path / "overlay"
    directory.mkdir()
    file = directory / "filestore"
    with file.open("wb") as held:
        held.write(b"x" * 100_000)
        held.flush()
        yield file


def machine(cgroup: CountingCgroup, path: Path, *, sentry: int | None = None) -> Running:
    record = Record(
        sandbox_id=NAME,
        boot_id="b",
        runsc="runsc",
        memory_bytes=1,
        address="10.0.0.2",
        sentry=None if sentry is None else ProcessId(pid=sentry, start_time=0),
    )
    return Running(
        record=record,
        directory=Directory(path=path),
        cgroup=cast("Cgroup", cgroup),
        sentry=cast("Pidfd", None),
        gofer=None,
    )


def test_of_one_that_had_no_processor_only_that_is_read(now: list[float], tmp_path: Path) -> None:
    cgroup, reader = CountingCgroup(), UsageReader()
    first = reader.read_all([machine(cgroup, tmp_path)])
    now[0] += 5

    second = reader.read_all([machine(cgroup, tmp_path)])

    assert cgroup.reads == 1
    assert second == first


def test_one_that_did_something_is_read_at_once(now: list[float], tmp_path: Path) -> None:
    cgroup, reader = CountingCgroup(), UsageReader()
    reader.read_all([machine(cgroup, tmp_path)])
    now[0] += 5
    cgroup.cpu, cgroup.memory = 1.000001, 300

    found = reader.read_all([machine(cgroup, tmp_path)])[NAME]

    assert (found.cpu_seconds, found.memory_bytes) == (1.000001, 300)


def test_what_the_kernel_does_to_an_idle_one_is_seen_after_a_while(now: list[float], tmp_path: Path) -> None:
    cgroup, reader = CountingCgroup(), UsageReader()
    reader.read_all([machine(cgroup, tmp_path)])
    cgroup.memory = 50
    now[0] += 30

    assert reader.read_all([machine(cgroup, tmp_path)])[NAME].memory_bytes == 50


def test_who_asks_for_one_gets_what_it_uses_now(now: list[float], tmp_path: Path) -> None:
    cgroup, reader = CountingCgroup(), UsageReader()
    reader.read_all([machine(cgroup, tmp_path)])
    cgroup.memory = 50

    assert reader.read(machine(cgroup, tmp_path)).memory_bytes == 50


def test_one_that_is_gone_is_left_out_and_forgotten(now: list[float], tmp_path: Path) -> None:
    cgroup, reader = CountingCgroup(), UsageReader()
    reader.read_all([machine(cgroup, tmp_path)])
    cgroup.gone = True
    gone = reader.read_all([machine(cgroup, tmp_path)])
    cgroup.gone = False

    again = reader.read_all([machine(cgroup, tmp_path)])

    assert gone == {}
    assert NAME in again
    assert cgroup.reads == 2


def test_the_disk_is_the_file_that_the_sentry_holds_also_without_a_name(
    now: list[float], tmp_path: Path, overlay: Path
) -> None:
    running = machine(CountingCgroup(), tmp_path, sentry=os.getpid())
    reader = UsageReader()
    wanted = overlay.stat().st_blocks * 512
    overlay.unlink()
    # What is deleted keeps its name in /proc, with a word behind it.
    found = [reader.read(running).disk_bytes for _ in range(2)]

    assert found == [wanted, wanted]


def test_a_number_that_is_another_files_by_now_is_not_the_disk(
    now: list[float], tmp_path: Path, overlay: Path
) -> None:
    running, reader = machine(CountingCgroup(), tmp_path, sentry=os.getpid()), UsageReader()
    reader.read(running)
    other = tmp_path / "other"
    other.write_bytes(b"x" * 10_000_000)
    descriptor = int(next(fd.name for fd in Path("/proc/self/fd").iterdir() if names(fd, overlay)))
    with other.open("rb") as file:
        os.dup2(file.fileno(), descriptor)

        assert reader.read(running).disk_bytes == 0


def names(descriptor: Path, file: Path) -> bool:
    try:
        return descriptor.readlink() == file
    except OSError:
        return False
