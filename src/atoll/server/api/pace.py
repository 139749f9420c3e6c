"""
How many requests each key may send: so many in a window of time, counted from its first one.

A few lines of our own: the libraries' counters in memory begin a thread or a task when something is counted.
"""

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# Windows that are over are looked for when there are so many more: counting stays cheap, and the table small.
_SWEEP_FROM = 1024


@dataclass(frozen=True, kw_only=True)
class Standing:
    """
    Where a key stands after a request.

    Attributes:
        passes: whether this request is within the limit.
        limit: requests of a window.
        remaining: of this one.
        reset_seconds: until the next one, whole and never 0.
    """

    passes: bool
    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """Return what clients are told."""
        told = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
        }
        if not self.passes:
            told |= {"Retry-After": str(self.reset_seconds), "Should-Retry": "true"}
        return told


class Pace:
    """Counts requests by key."""

    def __init__(self, *, window_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            window_seconds: how long one is.
            now: a clock that never goes back.
        """
        self._window = window_seconds
        self._now = now
        # Of each key: when its window ends, and the requests in it.
        self._windows: dict[Hashable, tuple[float, int]] = {}
        self._sweep_at = _SWEEP_FROM

    def take(self, key: Hashable, *, limit: int) -> Standing:
        """
        Count a request; one that does not pass counts for nothing.

        Args:
            key: whose.
            limit: requests of one window; another than before holds at once.
        """
        now = self._now()
        end, count = self._windows.get(key, (0.0, 0))
        if now >= end:
            self._sweep(now)
            end, count = now + self._window, 0
        passes = count < limit
        count += passes
        self._windows[key] = (end, count)
        return Standing(
            passes=passes,
            limit=limit,
            remaining=max(0, limit - count),
            reset_seconds=max(1, math.ceil(end - now)),
        )

    def _sweep(self, now: float) -> None:
        if len(self._windows) < self._sweep_at:
            return
        self._windows = {key: window for key, window in self._windows.items() if window[0] > now}
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._windows))
