"""
The pool, as data: machines that were restored from a template's checkpoint and wait to be claimed.

What size it should have is computed here, from what was asked for and what it may cost; and which pool goes
where there are too many.
"""

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
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
        teams: whose creates they were.
    """

    burst: int
    last_asked: datetime | None
    machine_bytes: int
    teams: frozenset[TeamId] = frozenset()

    @property
    def asked(self) -> float:
        """When the last create came, to compare with others."""
        return self.last_asked.timestamp() if self.last_asked is not None else 0.0


@dataclass(kw_only=True)
class Demand:
    """
    Counts creates in windows of time, and forgets them after a while.

    Attributes:
        window: creates that come within this count as one burst.
        memory: how long a burst is remembered, and who asked.
    """

    window: timedelta
    memory: timedelta
    last_asked: datetime | None = None
    _windows: deque[tuple[datetime, int]] = field(default_factory=deque)
    # When each asked last.
    _teams: dict[TeamId, datetime] = field(default_factory=dict)

    def asked(self, now: datetime, team_id: TeamId) -> None:
        """Count one create."""
        self.last_asked = self._teams[team_id] = now
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

    def teams(self, now: datetime) -> frozenset[TeamId]:
        """Return those whose creates are remembered."""
        self._teams = {team: asked for team, asked in self._teams.items() if now - asked <= self.memory}
        return frozenset(self._teams)


def sizes(stocks: Mapping[PoolKey, Stock], *, least: int, most: int, budget_bytes: int) -> dict[PoolKey, int]:
    """
    Decide how many machines should wait for each key.

    As many as the largest remembered burst had, between ``least`` and ``most``, as far as the budget goes:
    every one gets its least before one gets more. First come those that each team asked for last, then those
    that it asked for before these, and so on, so that nobody's many pools leave another without one.

    Args:
        stocks: what is known of each.
        least: machines of a key even when nobody asks.
        most: machines of a key.
        budget_bytes: of all of them together.
    """
    places = _places(stocks)
    order = sorted(stocks, key=lambda key: (places[key], -stocks[key].asked, key.template_id))
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


def _places(stocks: Mapping[PoolKey, Stock]) -> dict[PoolKey, int]:
    """Count the pools that a team asked for later than each; of several teams, that which has fewest."""
    places: dict[PoolKey, int] = {}
    seen = Counter[TeamId]()
    for key in sorted(stocks, key=lambda key: -stocks[key].asked):
        teams = stocks[key].teams
        places[key] = min((seen[team] for team in teams), default=0)
        seen.update(teams)
    return places


def first_to_go(
    stocks: Mapping[PoolKey, Stock], *, kept: Collection[PoolKey], team: TeamId | None
) -> PoolKey:
    """
    Choose the pool that makes room for another one.

    It is one of the team that has most, the new one with them; a pool of several teams counts as one of that
    which has fewest. Of those it is what fewest others lose, rather one of who asks, and not asked for
    longest. What is kept before anybody asks goes last, what nobody asked for otherwise at once.

    Args:
        stocks: what is known of each; at least one.
        kept: those that are kept ready before anybody asks.
        team: who asks for the new one; None: nobody.
    """
    free = [key for key in stocks if key not in kept] or list(stocks)
    if nobodys := [key for key in free if not stocks[key].teams]:
        return nobodys[0]
    has = Counter(one for key in free for one in stocks[key].teams)
    if team is not None:
        has[team] += 1

    def turn(key: PoolKey) -> tuple[int, int, bool, float]:
        teams = stocks[key].teams
        return -min(has[one] for one in teams), len(teams - {team}), team not in teams, stocks[key].asked

    return min(free, key=turn)
