"""
The queues for a turn: places of each team in their order, teams by turns.

Knows nothing of turns.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.server.domain.ids import TeamId


@dataclass(eq=False, kw_only=True)
class Place:
    """
    A place in a queue.

    Attributes:
        team_id: whose.
        urgent: in which queue it is.
        turn: done when it has come, or never will.
    """

    team_id: TeamId
    urgent: bool
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Queue:
    """Places, and whose turn is next."""

    def __init__(self) -> None:
        # The team whose turn is next comes first.
        self._teams: dict[TeamId, deque[Place]] = {}

    def __len__(self) -> int:
        """Count the places."""
        return sum(len(places) for places in self._teams.values())

    def __contains__(self, place: Place) -> bool:
        """Tell whether a place is in it."""
        return place in self._teams.get(place.team_id, ())

    def append(self, place: Place) -> None:
        """Add the last place of its team."""
        self._teams.setdefault(place.team_id, deque()).append(place)

    def remove(self, place: Place) -> None:
        """Take a place out; a no-op if it is not there."""
        places = self._teams.get(place.team_id, deque())
        if place in places:
            places.remove(place)
        if not places:
            self._teams.pop(place.team_id, None)

    def next(self, may: Callable[[TeamId], bool]) -> Place | None:
        """Take out the place whose turn it is, of the teams that may have one; they go to the end."""
        team_id = next((one for one in self._teams if may(one)), None)
        if team_id is None:
            return None
        places = self._teams.pop(team_id)
        place = places.popleft()
        if places:
            self._teams[team_id] = places
        return place

    def make_room(self, team_id: TeamId) -> Place | None:
        """Take out the newest place of the team that has most, if it has more than ``team_id`` will have."""
        most = max(self._teams.values(), key=len, default=deque[Place]())
        # With one more, this team would have as many as that one is left with.
        if len(most) <= len(self._teams.get(team_id, ())) + 1:
            return None
        return most.pop()
