"""
The pool, as data: machines that were restored from a template's checkpoint and wait to be claimed.

What size it should have is computed here, from what was asked for and what it may cost.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from atoll.server.domain.ids import SandboxId, TemplateId
from atoll.server.domain.limits import Limits


@dataclass(frozen=True, kw_only=True)
class PoolKey:
    """What a claimed machine cannot change any more: those that differ in it wait in pools of their own."""

    template_id: TemplateId
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class PoolStatus:
    """
    One pool at one moment.

    Attributes:
        key: what waits in it.
        template: the template's name.
        ids: of the sandboxes that those that wait will be.
        wanted: how many should.
        hits: creates since the server's start that found one.
        misses: creates that could have used one, and found none.
        oldest: since when the one waits that waits longest; None: none waits.
        machine_bytes: what one takes of the host's memory, as far as that is known.
        problem: why none can be made at the moment; None: nothing is wrong.
    """

    key: PoolKey
    template: str
    ids: tuple[SandboxId, ...]
    wanted: int
    hits: int
    misses: int
    oldest: datetime | None
    machine_bytes: int
    problem: str | None

    @property
    def ready(self) -> int:
        """How many machines wait."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Stock:
    """
    What is known of one pool when its size is decided.

    Attributes:
        burst: the most creates that came within one window lately.
        last_asked: when the last one came; None: none since the server's start.
        machine_bytes: what one machine takes of the host's memory.
    """

    burst: int
    last_asked: datetime | None
    machine_bytes: int


@dataclass(kw_only=True)
class Demand:
    """
    Counts creates in windows of time, and forgets them after a while.

    Attributes:
        window: creates that come within this count as one burst.
        memory: how long a burst is remembered.
    """

    window: timedelta
    memory: timedelta
    last_asked: datetime | None = None
    _windows: deque[tuple[datetime, int]] = field(default_factory=deque)

    def asked(self, now: datetime) -> None:
        """Count one create."""
        self.last_asked = now
        if self._windows and now - self._windows[-1][0] < self.window:
            began, number = self._windows[-1]
            self._windows[-1] = (began, number + 1)
        else:
            self._windows.append((now, 1))

    def burst(self, now: datetime) -> int:
        """Return the most creates of one window that is remembered."""
        while self._windows and now - self._windows[0][0] > self.memory:
            self._windows.popleft()
        return max((number for _, number in self._windows), default=0)


def sizes(stocks: Mapping[PoolKey, Stock], *, least: int, most: int, budget_bytes: int) -> dict[PoolKey, int]:
    """
    Decide how many machines should wait for each key.

    As many as the largest remembered burst had, between ``least`` and ``most``, as far as the budget goes:
    those that were asked for last come first, and every one of them gets its least before one gets more.

    Args:
        stocks: what is known of each.
        least: machines of a key even when nobody asks.
        most: machines of a key.
        budget_bytes: of all of them together.
    """

    def last(key: PoolKey) -> float:
        asked = stocks[key].last_asked
        return asked.timestamp() if asked is not None else 0.0

    order = sorted(stocks, key=lambda key: (-last(key), key.template_id))
    granted = dict.fromkeys(stocks, 0)
    left = budget_bytes
    enough = (dict.fromkeys(stocks, least), {key: max(least, stock.burst) for key, stock in stocks.items()})
    for wanted in enough:
        for key in order:
            each = max(stocks[key].machine_bytes, 1)
            more = max(min(min(wanted[key], most) - granted[key], left // each), 0)
            granted[key] += more
            left -= more * each
    return granted
