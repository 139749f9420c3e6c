"""A file is read once in a while for its checksum, and again as soon as it may be another."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from atoll.server.runtimes import images
from atoll.server.runtimes.sums import Sums

AT_ONCE = 8


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

    def noted(path: Path) -> str:
        paths.append(path)
        return true(path)

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

    def refused(path: Path) -> str:
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(images, "sum_of", refused)
        with pytest.raises(OSError, match="no"):
            sums.of(image)

    assert sums.of(image) == images.sum_of(image)
