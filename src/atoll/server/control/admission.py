"""
Lets a bounded number of heavy steps (starts, restores, checkpoints) go on at once; the others queue.

Fair: teams take turns, so a burst of one makes another wait for one step, not for the burst; where it fills
the queue, it makes room there. Before all of them comes what traffic waits for, also where that came later
than the step itself. What nobody waits for gets a turn only when nobody else wants one.

A turn is for the host's work. What is left when only the guest is waited for, may take as long as the guest
likes, and programs that stop their own daemon would keep everybody waiting: so the turn goes on to the next.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from atoll.server.domain.errors import Reason, ResourceExhaustedError
from atoll.server.domain.ids import TeamId


class Urgency:
    """Whether a request is held up by some work; it may come to be while that waits for its turn."""

    def __init__(self, urgent: bool = False) -> None:
        self.urgent = urgent
        # Set by the queue that the work waits in.
        self.risen: Callable[[], None] = lambda: None

    def rise(self) -> None:
        """Say that a request is held up; may be said again, and when the work has had its turn."""
        self.urgent = True
        self.risen()


@dataclass(eq=False, kw_only=True)
class _Place:
    """
    A place in the queue.

    Attributes:
        team_id: whose.
        urgent: in which part of the queue it is.
        turn: done when it has come, or never will.
    """

    team_id: TeamId
    urgent: bool
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turn:
    """A turn that is held."""

    def __init__(self, pass_on: Callable[[], None], patience: timedelta) -> None:
        """
        Args:
            pass_on: ends it; called once.
            patience: how long it is held while only a guest is waited for.
        """
        self._pass_on = pass_on
        self._patience = patience
        self._timer: asyncio.TimerHandle | None = None
        self._held = True

    def guest_is_awaited(self) -> None:
        """Say that the host has done its part; after its patience with the guest, the turn is another's."""
        if self._timer is None and self._held:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._patience.total_seconds(), self.end)

    def end(self) -> None:
        """Pass it on, unless that was done."""
        if self._timer is not None:
            self._timer.cancel()
        if self._held:
            self._held = False
            self._pass_on()


class Admission:
    """Hands out turns."""

    def __init__(
        self,
        *,
        at_once: int,
        most_waiting: int,
        longest_wait: timedelta,
        spare_at_once: int = 1,
        guest_patience: timedelta = timedelta(seconds=2),
        calm: Callable[[], timedelta] = timedelta,
    ) -> None:
        """
        Args:
            at_once: turns held at once.
            most_waiting: places in the queue; what is urgent has as many of its own.
            longest_wait: in it.
            spare_at_once: spare turns held at once; they are among ``at_once``.
            guest_patience: how long a turn is held while only a guest is waited for, and how long what needs
                no turn keeps what is spare away; guests answer in milliseconds.
            calm: says how long nobody wants anything before a spare turn begins: what was wanted is still
                being answered then, and the next of a burst may be on its way.
        """
        self._free = at_once
        self._most_waiting = most_waiting
        self._longest_wait = longest_wait
        self._urgent: deque[_Place] = deque()
        # Those in the other part that became urgent while there was no place before it.
        self._risen: deque[_Place] = deque()
        self._waiting: dict[TeamId, deque[_Place]] = {}
        # Work that somebody waits for, with a turn or without.
        self._wanted = 0
        self._spare_free = spare_at_once
        self._guest_patience = guest_patience
        self._rest = calm
        self._calming: asyncio.TimerHandle | None = None
        self._calm = asyncio.Event()
        self._calm.set()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._urgent) + sum(len(queue) for queue in self._waiting.values())

    @asynccontextmanager
    async def turn(self, team_id: TeamId, urgency: Urgency | None = None) -> AsyncIterator[Turn]:
        """
        Wait for a turn and hold it.

        Args:
            team_id: whose work it is.
            urgency: what is urgent, or comes to be, goes before all that is not. None: it never is.

        Raises:
            ResourceExhaustedError: too many wait, and of this team more than of others; or the wait was too
                long.
        """
        forget = self._want()
        try:
            if self._free > 0:
                self._free -= 1
            else:
                await self._wait(team_id, urgency or Urgency())
        except BaseException:
            forget()
            raise

        def pass_on() -> None:
            self._pass_on()
            forget()

        turn = Turn(pass_on, self._guest_patience)
        try:
            yield turn
        finally:
            turn.end()

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """
        Do something that needs no turn, and that nothing spare is to slow down.

        For as long as a turn is held for a guest (``guest_patience``): who creates sandboxes that keep silent
        would have nothing spare done any more.
        """
        forget = self._want()
        patience = asyncio.get_running_loop().call_later(self._guest_patience.total_seconds(), forget)
        try:
            yield
        finally:
            patience.cancel()
            forget()

    @asynccontextmanager
    async def spare(self) -> AsyncIterator[None]:
        """Wait, however long, until nobody wants anything, and hold a turn that nobody misses."""
        while not (self._calm.is_set() and self._is_calm() and self._free > 0):
            self._calm.clear()
            self._look_for_calm()
            await self._calm.wait()
        self._free -= 1
        self._spare_free -= 1
        try:
            yield
        finally:
            self._spare_free += 1
            self._pass_on()

    def _want(self) -> Callable[[], None]:
        """Have nothing spare begin until what this returns is called, again or not."""
        self._wanted += 1
        self._stir()
        wants = True

        def forget() -> None:
            nonlocal wants
            if wants:
                wants = False
                self._wanted -= 1
                self._look_for_calm()

        return forget

    def _is_calm(self) -> bool:
        return self._wanted == 0 and self._spare_free > 0

    def _stir(self) -> None:
        self._calm.clear()
        if self._calming is not None:
            self._calming.cancel()
            self._calming = None

    def _look_for_calm(self) -> None:
        if not self._is_calm() or self._free == 0 or self._calm.is_set() or self._calming is not None:
            return
        rest_s = self._rest().total_seconds()
        if rest_s == 0:
            self._calm.set()
        else:
            self._calming = asyncio.get_running_loop().call_later(rest_s, self._be_calm)

    def _be_calm(self) -> None:
        self._calming = None
        if self._is_calm() and self._free > 0:
            self._calm.set()

    async def _wait(self, team_id: TeamId, urgency: Urgency) -> None:
        self._find_room(team_id, urgency.urgent)
        place = _Place(team_id=team_id, urgent=urgency.urgent)
        self._queue(place).append(place)
        urgency.risen = lambda: self._move_forward(place)
        try:
            async with asyncio.timeout(self._longest_wait.total_seconds()):
                await place.turn
        except BaseException as error:
            self._leave(place)
            if isinstance(error, TimeoutError):
                raise ResourceExhaustedError(
                    "Too much is under way: the sandbox had no turn within "
                    f"{self._longest_wait.total_seconds():g} s",
                    resolution="Try again in a moment.",
                    reason=Reason.NO_TURN,
                ) from None
            raise

    def _move_forward(self, place: _Place) -> None:
        """Have one that waits go before all that is not urgent, as soon as a place is free there."""
        if not place.turn.done() and not place.urgent and place not in self._risen:
            self._risen.append(place)
            self._let_in()

    def _let_in(self) -> None:
        while self._risen and len(self._urgent) < self._most_waiting:
            place = self._risen.popleft()
            # Some had their turn, or left.
            if place in self._waiting.get(place.team_id, ()):
                self._take_out(place)
                place.urgent = True
                self._urgent.append(place)

    def _queue(self, place: _Place) -> deque[_Place]:
        return self._urgent if place.urgent else self._waiting.setdefault(place.team_id, deque())

    def _find_room(self, team_id: TeamId, urgent: bool) -> None:
        """Refuse what would be one too many: this one, or the newest of a team that has more places."""
        waiting = len(self._urgent) if urgent else self.waiting - len(self._urgent)
        if waiting < self._most_waiting:
            return
        refused = ResourceExhaustedError(
            f"Too much is under way: {waiting} wait already",
            resolution="Try again in a moment.",
            reason=Reason.NO_ROOM,
        )
        ours = len(self._waiting.get(team_id, ()))
        most = max(self._waiting.values(), key=len, default=deque[_Place]())
        # With one more, this team would have as many as that one is left with.
        if urgent or len(most) <= ours + 1:
            raise refused
        newest = most.pop()
        if not newest.turn.done():
            newest.turn.set_exception(refused)

    def _leave(self, place: _Place) -> None:
        if place.turn.done() and not place.turn.cancelled():
            if place.turn.exception() is None:
                # The turn came at the moment of leaving.
                self._pass_on()
            return
        self._take_out(place)

    def _take_out(self, place: _Place) -> None:
        queue = self._queue(place)
        if place in queue:
            queue.remove(place)
        if not self._waiting.get(place.team_id, True):
            del self._waiting[place.team_id]
        if place.urgent:
            self._let_in()

    def _pass_on(self) -> None:
        while (place := self._next()) is not None:
            if not place.turn.done():
                place.turn.set_result(None)
                return
        self._free += 1
        self._look_for_calm()

    def _next(self) -> _Place | None:
        if self._urgent:
            place = self._urgent.popleft()
            self._let_in()
            return place
        if not self._waiting:
            return None
        team_id, queue = next(iter(self._waiting.items()))
        place = queue.popleft()
        # The team goes to the end of the line.
        del self._waiting[team_id]
        if queue:
            self._waiting[team_id] = queue
        return place
