"""From what is so now, and what happened, to what was: how many ran, and how fast they were started."""

from datetime import UTC, datetime, timedelta

import pytest

from atoll.server.domain.team_history import Change, TeamHistory, Turn

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def turn(second: float, change: Change) -> Turn:
    return Turn(place=0, at=at(second), change=change)


def history(
    running: int, turns: list[Turn], *, end: float = 40, most: int = 4, every: float = 5
) -> TeamHistory:
    """Of 40 s in four steps; turns as they happened."""
    found = TeamHistory(running=running, start=NOON, end=at(end), every=timedelta(seconds=every), most=most)
    for one in reversed(turns):
        found.undo(one)
    return found


def test_what_runs_now_is_counted_back_turn_by_turn() -> None:
    found = history(
        1,
        [
            turn(1, Change.STARTED),
            turn(2, Change.STARTED),
            turn(3, Change.ENDED),
            turn(12, Change.ENDED),
            turn(25, Change.RESUMED),
        ],
    )

    assert [(point.at, point.running) for point in found.points()] == [
        (at(10), 2), (at(20), 1), (at(30), 1), (at(40), 1),
    ]  # fmt: skip
    assert [point.starts_per_second for point in found.points()] == [0.2, 0, 0, 0]
    assert found.most_running() == (at(2), 2)


def test_a_quiet_time_is_as_it_is_now() -> None:
    found = history(3, [])

    assert [point.running for point in found.points()] == [3, 3, 3, 3]
    assert found.most_running() == (NOON, 3)
    assert found.fastest_start() == (NOON, 0)


def test_what_was_over_before_now_is_not_what_is_asked_for() -> None:
    """What happened after the end is undone, and neither shown nor counted."""
    found = history(9, [turn(1, Change.STARTED), *[turn(50, Change.STARTED)] * 8])

    assert [point.running for point in found.points()] == [1, 1, 1, 1]
    assert found.most_running() == (at(1), 1)
    assert found.fastest_start() == (NOON, 0.2)


def test_a_burst_is_not_smoothed_away_by_long_steps() -> None:
    found = history(10, [turn(21 + n / 10, Change.STARTED) for n in range(10)], most=1)

    assert [(point.running, point.starts_per_second) for point in found.points()] == [(10, 0.25)]
    assert found.fastest_start() == (at(20), 2)


def test_steps_are_multiples_of_the_samples_time_and_the_last_is_what_is_left() -> None:
    found = history(0, [turn(17, Change.STARTED), turn(17.5, Change.ENDED)], end=18, most=3)

    assert [point.at for point in found.points()] == [at(10), at(18)]
    assert [point.starts_per_second for point in found.points()] == [0, 0.125]


def test_no_time_at_all_is_one_moment() -> None:
    found = history(2, [turn(0, Change.STARTED)], end=0)

    assert [(point.at, point.running) for point in found.points()] == [(NOON, 2)]


@pytest.mark.parametrize("change", [Change.STARTED, Change.RESUMED])
def test_events_that_miss_make_no_negative_number(change: Change) -> None:
    found = history(0, [turn(5, change), turn(15, change)])

    assert [point.running for point in found.points()] == [0, 0, 0, 0]
