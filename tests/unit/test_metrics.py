"""Samples become points: the difference to the one before, and never one that was not taken."""

from datetime import UTC, datetime, timedelta

import pytest

from atoll.server.domain.metrics import Sample, next_round, points

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def sample(second: float, cpu: float, memory: int = 10) -> Sample:
    at = BEGAN + timedelta(seconds=second)
    return Sample(at=at, cpu_seconds=cpu, memory_bytes=memory, cache_bytes=1, disk_bytes=2)


def test_processors_are_told_since_the_sample_before_not_since_the_start() -> None:
    taken = [sample(5, 5), sample(10, 5), sample(15, 15)]

    found = points(taken, began=BEGAN, most=10, since=BEGAN)

    assert [point.cores for point in found] == [1.0, 0.0, 2.0]


def test_a_sample_before_the_time_asked_for_only_tells_where_counting_began() -> None:
    taken = [sample(5, 5), sample(10, 6)]

    [point] = points(taken, began=BEGAN, most=10, since=BEGAN + timedelta(seconds=6))

    assert point.at == BEGAN + timedelta(seconds=10)
    assert point.cores == pytest.approx(0.2)


def test_where_nothing_was_taken_there_is_no_point() -> None:
    taken = [sample(5, 1), sample(605, 61)]

    found = points(taken, began=BEGAN, most=10, since=BEGAN)

    assert [point.at for point in found] == [one.at for one in taken]
    assert found[1].cores == pytest.approx(0.1)


def test_a_counter_that_began_anew_is_no_negative_use() -> None:
    found = points([sample(5, 100), sample(10, 1)], began=BEGAN, most=10, since=BEGAN)

    assert found[1].cores == pytest.approx(0.2)


@pytest.mark.parametrize(("number", "most", "left"), [(7, 3, 3), (6, 3, 3), (4, 3, 2), (3, 3, 3), (9, 1, 1)])
def test_many_samples_become_few_points_that_hide_no_peak(number: int, most: int, left: int) -> None:
    taken = [sample(5 * n, n, memory=1000 if n == 2 else 10) for n in range(1, number + 1)]

    found = points(taken, began=BEGAN, most=most, since=BEGAN)

    assert len(found) == left
    assert found[-1].at == taken[-1].at
    assert max(point.memory_bytes for point in found) == 1000
    assert all(point.cores == pytest.approx(0.2) for point in found)


def test_no_samples_are_no_points() -> None:
    assert points([], began=BEGAN, most=3, since=BEGAN) == []


def test_rounds_do_not_drift() -> None:
    every = timedelta(seconds=5)

    assert next_round(BEGAN + timedelta(seconds=0.2), every) == BEGAN + timedelta(seconds=5)
    assert next_round(BEGAN + timedelta(seconds=5), every) == BEGAN + timedelta(seconds=10)
    assert next_round(BEGAN + timedelta(seconds=9.9), every) == BEGAN + timedelta(seconds=10)
