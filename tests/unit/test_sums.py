"""A file is read once in a while for its checksum, and again as soon as it may be another."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.ids import TemplateId
from atoll.server.runtimes import images
from atoll.server.runtimes.sums import Sums

AT_ONCE = 8
CHECKPOINT = Checkpoint(
    kind=CheckpointKind.MEMORY, runtime="gvisor", runtime_version="1", cpu_features=(), guestd="",
    template_id=TemplateId("minimal-1"), disk_bytes=1, memory_bytes=1, shm_bytes=1, address="10.0.0.2",
    volume_paths=(),
)  # fmt: skip


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was read, in order."""
    paths: list[Path] = []
    true = images.sum_of

    def noted(path: Path, is_stopped: Callable[[], bool]) -> str:
        paths.append(path)
        return true(path, is_stopped)

    monkeypatch.setattr(images, "sum_of", noted)
    return paths


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "pages.img"
    path.write_bytes(b"one")
    return path


def test_who_asks_again_gets_what_was_computed(image: Path, read: list[Path]) -> None:
    sums = Sums(now=Clock())

    found = [sums.of(image), sums.of(image)]

    assert found == [hashlib.sha256(b"one").hexdigest()] * 2
    assert len(read) == 1


def test_of_many_at_once_one_reads(image: Path, read: list[Path]) -> None:
    sums, barrier = Sums(), Barrier(AT_ONCE)

    def ask(_: int) -> str:
        barrier.wait(10)
        return sums.of(image)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = set(threads.map(ask, range(AT_ONCE)))

    assert len(found) == len(read) == 1


@pytest.mark.parametrize("in_place", [True, False])
def test_what_was_written_since_is_read_again(image: Path, read: list[Path], in_place: bool) -> None:
    sums = Sums(now=Clock())
    before = sums.of(image)
    times = image.stat()
    if in_place:
        image.write_bytes(b"two")
    else:
        other = image.with_name("other")
        other.write_bytes(b"two")
        other.rename(image)
    # Not even somebody who sets the time back gets by.
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    # Kernels before 6.13 count times in ticks of some milliseconds.
    while image.stat().st_ctime_ns == times.st_ctime_ns:
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert sums.of(image) != before
    assert len(read) == 2


def test_it_counts_for_a_while_only(image: Path, read: list[Path]) -> None:
    clock = Clock()
    sums = Sums(keep_s=60, now=clock)
    sums.of(image)
    clock.now = 59.9
    sums.of(image)

    clock.now = 60.0
    sums.of(image)

    assert len(read) == 2


def test_what_could_not_be_read_is_tried_again(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = Sums(now=Clock())

    def refused(path: Path, is_stopped: Callable[[], bool]) -> str:
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(images, "sum_of", refused)
        with pytest.raises(OSError, match="no"):
            sums.of(image)

    assert sums.of(image) == images.sum_of(image)


def test_what_was_sealed_just_now_is_not_read_again(tmp_path: Path, read: list[Path]) -> None:
    directory, sums = tmp_path / "checkpoint", Sums(now=Clock())
    half = images.Half(directory)
    half.make()
    (half.path / "pages.img").write_bytes(b"p" * (9 << 20))
    half.publish(CHECKPOINT)
    read.clear()

    sealed = images.seal(directory, summed=sums.of)
    images.verify(directory, sealed, small=False, summed=sums.of)

    assert len(read) == 1
    assert sealed.files[0].sha256 == hashlib.sha256(b"p" * (9 << 20)).hexdigest()


def test_half_a_sum_counts_for_nobody(image: Path, read: list[Path]) -> None:
    sums = Sums(now=Clock())

    sums.of(image, lambda: True)

    assert sums.of(image) == hashlib.sha256(b"one").hexdigest()
    assert len(read) == 2
