"""The port to events, for reading: they are written with the rows that tell them (``ports/store.py``)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from atoll.server.domain.events import Event, EventType
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.team_history import Turn


@dataclass(frozen=True, kw_only=True)
class EventQuery:
    """
    Which events to list.

    Attributes:
        team_id: whose.
        sandbox_id: of this sandbox only; None: of all.
        types: of these only; empty: of all.
        offset: so many are left out first.
        limit: at most so many.
        oldest_first: the order in which they were written.
    """

    team_id: TeamId
    sandbox_id: SandboxId | None = None
    types: tuple[EventType, ...] = ()
    offset: int = 0
    limit: int = 10
    oldest_first: bool = False


class EventStore(Protocol):
    """Keeps events. Every call is one transaction."""

    async def list_events(self, query: EventQuery) -> Sequence[Event]:
        """List events."""
        ...

    async def list_turns(self, team_id: TeamId, *, before: int | None, limit: int) -> Sequence[Turn]:
        """
        List what changed how many sandboxes of a team run, newest first.

        Args:
            team_id: whose.
            before: only what was written before this place; None: all.
            limit: at most so many.
        """
        ...

    async def kept_since(self, team_id: TeamId, *, most: int) -> datetime | None:
        """Return when the oldest of a team's last ``most`` events happened; None: it has fewer."""
        ...

    async def forget_events(self, *, before: datetime, most: int) -> int:
        """
        Delete events from before, so many at most; return how many.

        What was delivered of them, or was to be, is forgotten too.
        """
        ...

    async def forget_excess(self, team_id: TeamId, *, keep: int, most: int) -> int:
        """Delete a team's events but the last ``keep``, so many at most, oldest first; return how many."""
        ...

    async def next_team(self, after: TeamId) -> TeamId | None:
        """Return the next team that has events, in the order of their ids; None: no more."""
        ...
