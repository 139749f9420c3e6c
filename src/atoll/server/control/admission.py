"""
Lets a bounded number of starts go on at once; the others wait in a fair queue.

Fair: teams take turns, so a burst of one makes another wait for one start, not for the burst.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from atoll.server.domain.errors import ResourceExhaustedError
from atoll.server.domain.ids import TeamId


class Admission:
    """Hands out turns."""

    def __init__(self, *, at_once: int, most_waiting: int, longest_wait: timedelta) -> None:
        self._free = at_once
        self._most_waiting = most_waiting
        self._longest_wait = longest_wait
        self._waiting: dict[TeamId, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(len(queue) for queue in self._waiting.values())

    @asynccontextmanager
    async def turn(self, team_id: TeamId) -> AsyncIterator[None]:
        """
        Wait for a turn and hold it.

        Raises:
            ResourceExhaustedError: too many wait, or the wait was too long.
        """
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(team_id)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, team_id: TeamId) -> None:
        if (waiting := self.waiting) >= self._most_waiting:
            raise ResourceExhaustedError(
                f"Too many sandboxes are being created: {waiting} wait already",
                resolution="Try again in a moment.",
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(team_id, deque()).append(place)
        try:
            async with asyncio.timeout(self._longest_wait.total_seconds()):
                await place
        except BaseException as error:
            self._leave(team_id, place)
            if isinstance(error, TimeoutError):
                raise ResourceExhaustedError(
                    "Too many sandboxes are being created: "
                    f"no turn within {self._longest_wait.total_seconds():g} s",
                    resolution="Try again in a moment.",
                ) from None
            raise

    def _leave(self, team_id: TeamId, place: asyncio.Future[None]) -> None:
        if place.done() and not place.cancelled():
            # The turn came at the moment of leaving.
            self._pass_on()
            return
        queue = self._waiting.get(team_id)
        if queue is not None and place in queue:
            queue.remove(place)
            if not queue:
                del self._waiting[team_id]

    def _pass_on(self) -> None:
        while self._waiting:
            team_id, queue = next(iter(self._waiting.items()))
            place = queue.popleft()
            # The team goes to the end of the line.
            del self._waiting[team_id]
            if queue:
                self._waiting[team_id] = queue
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
