"""How many sandboxes of a team ran at once, and how fast they were started, counted back from now."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum


class Change(Enum):
    """What an event means for the number of those that run."""

    STARTED = 1
    RESUMED = 2
    # Paused, or killed while it ran.
    ENDED = 3
    # Killed while it was paused, say.
    NONE = 4


_RUNNING_MORE = {Change.STARTED: 1, Change.RESUMED: 1, Change.ENDED: -1, Change.NONE: 0}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """
    An event, as far as numbers go.

    Attributes:
        place: its number; later ones have greater ones.
        at: when it happened.
        change: of the number of those that run.
    """

    place: int
    at: datetime
    change: Change


@dataclass(frozen=True, kw_only=True)
class TeamPoint:
    """
    What was so up to a moment since the point before.

    Attributes:
        at: the end of that time.
        running: the most sandboxes that ran at once.
        starts_per_second: sandboxes that were created; the mean.
    """

    at: datetime
    running: int
    starts_per_second: float


class TeamHistory:
    """
    Counts back: what runs now is known, and each event that is undone tells what ran before it.

    Events that are no longer kept, or never were, leave numbers behind that are not below zero.
    """

    def __init__(self, *, running: int, start: datetime, end: datetime, every: timedelta, most: int) -> None:
        """
        Args:
            running: how many run now.
            start: the first moment that is asked for.
            end: the last one, not before ``start``.
            every: the shortest step; steps are multiples of it.
            most: points, at least one.
        """
        self._running = running
        self._start = start
        self._end = end
        self._every = every
        self._step = every * max(math.ceil((end - start) / every / most), 1)
        number = max(math.ceil((end - start) / self._step), 1)
        self._most_running = [0] * number
        self._peak = (end, -1)
        # The level that is known holds up to here, and some way back.
        self._held_from = number - 1
        self._starts: Counter[int] = Counter()
        self._bursts: Counter[int] = Counter()

    def undo(self, turn: Turn) -> None:
        """Go back behind an event; the newest one first."""
        if turn.at <= self._end:
            self._hold(max(turn.at, self._start))
            if turn.change is Change.STARTED and turn.at >= self._start:
                since = turn.at - self._start
                self._starts[self._bucket(turn.at)] += 1
                self._bursts[since // self._every] += 1
        self._running = max(self._running - _RUNNING_MORE[turn.change], 0)

    def points(self) -> Sequence[TeamPoint]:
        """Return the points, oldest first."""
        self._hold(self._start)
        return [self._point(place, running) for place, running in enumerate(self._most_running)]

    def most_running(self) -> tuple[datetime, int]:
        """Return how many ran at most, and since when first."""
        self._hold(self._start)
        return self._peak

    def fastest_start(self) -> tuple[datetime, float]:
        """Return the most starts per second within ``every``, and when that began first."""
        place, number = min(self._bursts.items(), key=lambda one: (-one[1], one[0]), default=(0, 0))
        return self._start + place * self._every, number / self._every.total_seconds()

    def _hold(self, since: datetime) -> None:
        """Note that as many ran from this moment to the last one that was noted."""
        first = self._bucket(since)
        for place in range(first, self._held_from + 1):
            self._most_running[place] = max(self._most_running[place], self._running)
        self._held_from = first
        if self._running >= self._peak[1]:
            self._peak = (since, self._running)

    def _bucket(self, at: datetime) -> int:
        return min((at - self._start) // self._step, len(self._most_running) - 1)

    def _point(self, place: int, running: int) -> TeamPoint:
        began = self._start + place * self._step
        at = min(began + self._step, self._end)
        lasted = (at - began).total_seconds()
        return TeamPoint(
            at=at,
            running=running,
            starts_per_second=self._starts[place] / lasted if lasted > 0 else 0.0,
        )
