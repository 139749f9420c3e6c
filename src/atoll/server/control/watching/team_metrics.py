"""
How many sandboxes of a team ran at once and how fast they were started, read off its events.

Nothing is measured for it: what runs now is counted, and events tell what it was before. So it goes back as
far as events are kept, and has no gap where no server ran. With many events that takes the server's time, so
it is done for one call after the other, and of a team only some may wait.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from atoll.server.control.owned.keys import Keys
from atoll.server.control.requests import Actor
from atoll.server.control.watching.events import EventLimits
from atoll.server.control.watching.observing import MetricsLimits
from atoll.server.domain.errors import InvalidArgumentError, UnavailableError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.sandbox import Status
from atoll.server.domain.team_history import TeamHistory
from atoll.server.ports.clock import Clock
from atoll.server.ports.events import EventStore
from atoll.server.ports.store import SandboxFilter, Store

# Where no start is given.
USUAL_TIME = timedelta(days=1)
# That one is paused is told when its machine is gone.
_RUNNING = frozenset({Status.RUNNING, Status.PAUSING})
# Events that are read in one step; everybody waits for it. So many take a few milliseconds.
_AT_ONCE = 500
# Calls of one team that wait or are answered: what shows them asks for some at once.
ASKED_AT_ONCE = 8
_SHORTEST_STEP = timedelta(seconds=1)


class TeamMetrics:
    """Shows what a team's sandboxes were, all together."""

    def __init__(
        self,
        *,
        store: Store,
        event_store: EventStore,
        keys: Keys,
        clock: Clock,
        events: EventLimits,
        metrics: MetricsLimits,
    ) -> None:
        """
        Args:
            events: how long these are kept.
            metrics: the shortest step, and the most points.
            The rest: as everywhere in control.
        """
        self._store = store
        self._event_store = event_store
        self._keys = keys
        self._clock = clock
        self._events = events
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._asking = Counter[TeamId]()

    async def history(
        self,
        actor: Actor,
        untrusted_team: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> TeamHistory | None:
        """
        Read what was, as far as events are kept; None: of that time none are.

        Args:
            actor: who asks.
            untrusted_team: the team, by id or name.
            start: first moment; None: a day before the end.
            end: last moment; None: now.

        Raises:
            InvalidArgumentError: the end is before the start.
            NotFoundError: no such team, or somebody else's.
            UnavailableError: too many ask for the team's at once.
        """
        team_id = await self._keys.find_team(actor, untrusted_team)
        if start is not None and end is not None and end < start:
            raise InvalidArgumentError("the end must not be before the start")
        with self._place(team_id):
            async with self._turn:
                return await self._read(team_id, start, end)

    @contextmanager
    def _place(self, team_id: TeamId) -> Iterator[None]:
        if self._asking[team_id] >= ASKED_AT_ONCE:
            raise UnavailableError(f"{ASKED_AT_ONCE} calls for the team's metrics wait for their answer")
        self._asking[team_id] += 1
        try:
            yield
        finally:
            self._asking[team_id] -= 1
            # Those that are zero take no memory.
            self._asking = +self._asking

    async def _read(
        self, team_id: TeamId, start: datetime | None, end: datetime | None
    ) -> TeamHistory | None:
        now = self._clock.now()
        end = min(end or now, now)
        start = max(start or end - USUAL_TIME, await self._known_since(team_id, now))
        if end < start:
            return None
        running = await self._store.count_sandboxes(SandboxFilter(team_id=team_id, statuses=_RUNNING))
        every = max(self._metrics.every, _SHORTEST_STEP)
        history = TeamHistory(
            running=running, start=start, end=end, every=every, most=max(self._metrics.points, 1)
        )
        await self._count_back(history, team_id, start)
        return history

    async def _count_back(self, history: TeamHistory, team_id: TeamId, start: datetime) -> None:
        before: int | None = None
        while True:
            turns = await self._event_store.list_turns(team_id, before=before, limit=_AT_ONCE)
            for turn in turns:
                if turn.at < start:
                    return
                history.undo(turn)
            if len(turns) < _AT_ONCE:
                return
            before = turns[-1].place
            # The store's calls never yield: others take their turn here.
            await asyncio.sleep(0)

    async def _known_since(self, team_id: TeamId, now: datetime) -> datetime:
        oldest = now - self._events.keep
        # Where there are as many as there may be, older ones may have gone.
        first = await self._event_store.kept_since(team_id, most=max(self._events.most, 1))
        return max(oldest, first) if first is not None else oldest
