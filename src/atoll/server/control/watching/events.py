"""Events: showing them, and forgetting old ones. They are written with the rows that tell them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from atoll.server.control.requests import Actor
from atoll.server.domain.errors import AtollError, InvalidArgumentError
from atoll.server.domain.events import Event, parse_type
from atoll.server.domain.ids import TeamId, parse_sandbox_id
from atoll.server.ports.clock import Clock
from atoll.server.ports.events import EventQuery, EventStore

log = structlog.get_logger(__name__)

# Of one answer, as E2B has it.
MOST_LISTED = 100
# Whatever the settings say: looking must not be all that the server does.
_LEAST_PAUSE = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class EventLimits:
    """
    How long events are kept.

    Attributes:
        keep: how long, as E2B has it. They outlive their sandboxes.
        most: events of one team; beyond it go the oldest. Some 300 bytes each, and as much as the sandbox's
            metadata where it was created or killed.
        forget_every: how often is looked for what is to go.
        forgotten_at_once: events that are deleted in one step, at least one; everybody waits for it.
    """

    keep: timedelta = timedelta(days=7)
    most: int = 100_000
    forget_every: timedelta = timedelta(minutes=10)
    forgotten_at_once: int = 100


class Events:
    """Shows events, and forgets them."""

    def __init__(self, *, store: EventStore, clock: Clock, limits: EventLimits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits

    async def list(
        self,
        actor: Actor,
        *,
        untrusted_id: str | None = None,
        untrusted_types: Sequence[str] = (),
        offset: int = 0,
        limit: int = 10,
        oldest_first: bool = False,
    ) -> Sequence[Event]:
        """
        List what happened to the actor's sandboxes, or to one, which may be long gone.

        A sandbox that never was, or is not the actor's, has no events.

        Raises:
            InvalidArgumentError: the id has another form, there is no such type, or the page is
                outside its bounds.
        """
        if not 1 <= limit <= MOST_LISTED or offset < 0:
            raise InvalidArgumentError(f"limit must be 1 to {MOST_LISTED}, and offset not negative")
        query = EventQuery(
            team_id=actor.team_id,
            sandbox_id=parse_sandbox_id(untrusted_id) if untrusted_id is not None else None,
            types=tuple(dict.fromkeys(parse_type(text) for text in untrusted_types)),
            offset=offset,
            limit=limit,
            oldest_first=oldest_first,
        )
        return await self._store.list_events(query)

    async def run(self) -> None:
        """Forget what is old, wait, and look again, for ever."""
        pause = max(self._limits.forget_every, _LEAST_PAUSE)
        while True:
            try:
                forgotten = await self._forget()
            except AtollError as error:
                # A full disk, say: they wait for the next time.
                log.warning("old events not forgotten", error=str(error))
            else:
                if forgotten:
                    log.info("old events forgotten", number=forgotten)
            await self._clock.sleep_until(self._clock.now() + pause)

    async def _forget(self) -> int:
        before, keep = self._clock.now() - self._limits.keep, max(self._limits.most, 0)
        most = max(self._limits.forgotten_at_once, 1)
        forgotten = await _all(most, lambda: self._store.forget_events(before=before, most=most))
        team_id = TeamId("")
        while (found := await self._store.next_team(team_id)) is not None:
            team_id = found
            excess = partial(self._store.forget_excess, team_id, keep=keep, most=most)
            forgotten += await _all(most, excess)
        return forgotten


async def _all(most: int, step: Callable[[], Awaitable[int]]) -> int:
    """Repeat a step until it finds fewer than it would take; return how many there were."""
    total = 0
    while True:
        number = await step()
        total += number
        # The store's calls never yield: others take their turn here.
        await asyncio.sleep(0)
        if number < most:
            return total
