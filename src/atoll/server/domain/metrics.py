"""What a sandbox used at moments that were kept, and what a reader makes of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class Sample:
    """
    Counters at one moment, as the host has them.

    Attributes:
        at: when they were read.
        cpu_seconds: since the sandbox's start; less than before where it was started anew.
        memory_bytes: resident, without page cache.
        cache_bytes: page cache.
        disk_bytes: written over the template.
    """

    at: datetime
    cpu_seconds: float
    memory_bytes: int
    cache_bytes: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """
    What was used up to a moment since the point before.

    Attributes:
        at: the end of that time.
        cores: mean of the processors that were busy with it.
        memory_bytes: the most of the samples; so are the next two.
    """

    at: datetime
    cores: float
    memory_bytes: int
    cache_bytes: int
    disk_bytes: int


def points(samples: Sequence[Sample], *, began: datetime, most: int, since: datetime) -> list[Point]:
    """
    Turn samples into points: one each, or when there are more than ``most``, one for several that follow.

    Where no samples were taken there are no points: nothing is made up.

    Args:
        samples: in the order of their taking; those before ``since`` only tell where counting began.
        began: when the sandbox had used nothing yet.
        most: number of points, at least one.
        since: the first moment that is asked for.
    """
    before = Sample(at=began, cpu_seconds=0, memory_bytes=0, cache_bytes=0, disk_bytes=0)
    wanted: list[Sample] = []
    for sample in samples:
        if sample.at < since:
            before = sample
        else:
            wanted.append(sample)
    together = -(-len(wanted) // most)
    found = []
    for first in range(0, len(wanted), together or 1):
        part = wanted[first : first + together]
        found.append(_point(before, part))
        before = part[-1]
    return found


def _point(before: Sample, part: Sequence[Sample]) -> Point:
    last = part[-1]
    used = last.cpu_seconds - before.cpu_seconds
    if used < 0:  # counted anew
        used = last.cpu_seconds
    lasted = (last.at - before.at).total_seconds()
    return Point(
        at=last.at,
        cores=used / lasted if lasted > 0 else 0.0,
        memory_bytes=_most(sample.memory_bytes for sample in part),
        cache_bytes=_most(sample.cache_bytes for sample in part),
        disk_bytes=_most(sample.disk_bytes for sample in part),
    )


def _most(values: Iterable[int]) -> int:
    return max(values)


def next_round(now: datetime, every: timedelta) -> datetime:
    """Return the next moment that is a multiple of ``every``, so that rounds don't drift."""
    behind = timedelta(seconds=now.timestamp() % every.total_seconds())
    return now - behind + every
