"""
Lets a bounded number of heavy steps (starts, restores, checkpoints) go on at once; the others queue.

Fair: teams take turns, so a burst of one makes another wait for one step, not for the burst; where it fills
the queue, it makes room there. Before all of them comes what traffic waits for, also where that came later
than the step itself. What nobody waits for gets a turn only when nobody else wants one.

Steps of one team may last for minutes: machines with much memory that are written down. Some turns more are
reserved for teams that hold none, so that one team alone keeps no other waiting until its steps are done.

A turn is for the host's work. What is left when only the guest is waited for, may take as long as the guest
likes, and programs that stop their own daemon would keep everybody waiting: so the turn goes on to the next.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

from atoll.server.control.turns.queues import Place, Queue
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
        reserved: int = 0,
        spare_at_once: int = 1,
        guest_patience: timedelta = timedelta(seconds=2),
        calm: Callable[[], timedelta] = timedelta,
    ) -> None:
        """
        Args:
            at_once: turns held at once, without those that are reserved.
            most_waiting: places in the queue; what is urgent has as many of its own.
            longest_wait: in it.
            reserved: turns beyond ``at_once`` for teams that hold none.
            spare_at_once: spare turns held at once; they are among ``at_once``.
            guest_patience: how long a turn is held while only a guest is waited for, and how long what needs
                no turn keeps what is spare away; guests answer in milliseconds.
            calm: says how long nobody wants anything before a spare turn begins: what was wanted is still
                being answered then, and the next of a burst may be on its way.
        """
        # Turns that anybody may have; negative while reserved ones are held as well.
        self._free = at_once
        self._reserved = reserved
        # Turns that each team holds; what is spare is no team's.
        self._held: Counter[TeamId] = Counter()
        self._most_waiting = most_waiting
        self._longest_wait = longest_wait
        self._urgent = Queue()
        # Those in the other queue that became urgent while there was no place in this one.
        self._risen: deque[Place] = deque()
        self._waiting = Queue()
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
        return len(self._urgent) + len(self._waiting)

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
            if self._may(team_id):
                self._take(team_id)
            else:
                await self._wait(team_id, urgency or Urgency())
        except BaseException:
            forget()
            raise

        def pass_on() -> None:
            self._give_back(team_id)
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
            self._free += 1
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
        if not self._is_calm() or self._free <= 0 or self._calm.is_set() or self._calming is not None:
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
        queue = self._urgent if urgency.urgent else self._waiting
        self._find_room(queue, team_id)
        place = Place(team_id=team_id, urgent=urgency.urgent)
        queue.append(place)
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

    def _move_forward(self, place: Place) -> None:
        """Have one that waits go before all that is not urgent, as soon as a place is free there."""
        if not place.turn.done() and not place.urgent and place not in self._risen:
            self._risen.append(place)
            self._let_in()

    def _let_in(self) -> None:
        while self._risen and len(self._urgent) < self._most_waiting:
            place = self._risen.popleft()
            # Some had their turn, or left.
            if place in self._waiting:
                self._waiting.remove(place)
                place.urgent = True
                self._urgent.append(place)

    def _find_room(self, queue: Queue, team_id: TeamId) -> None:
        """Refuse what would be one too many: this one, or the newest of a team that has more places."""
        waiting = len(queue)
        if waiting < self._most_waiting:
            return
        refused = ResourceExhaustedError(
            f"Too much is under way: {waiting} wait already",
            resolution="Try again in a moment.",
            reason=Reason.NO_ROOM,
        )
        newest = queue.make_room(team_id)
        if newest is None:
            raise refused
        if not newest.turn.done():
            newest.turn.set_exception(refused)

    def _leave(self, place: Place) -> None:
        if place.turn.done() and not place.turn.cancelled():
            if place.turn.exception() is None:
                # The turn came at the moment of leaving.
                self._give_back(place.team_id)
            return
        (self._urgent if place.urgent else self._waiting).remove(place)
        self._let_in()

    def _may(self, team_id: TeamId) -> bool:
        return self._free > 0 or (self._free > -self._reserved and self._held[team_id] == 0)

    def _take(self, team_id: TeamId) -> None:
        self._free -= 1
        self._held[team_id] += 1

    def _give_back(self, team_id: TeamId) -> None:
        self._free += 1
        self._held[team_id] -= 1
        if self._held[team_id] == 0:
            del self._held[team_id]
        self._pass_on()

    def _pass_on(self) -> None:
        """Give turns to those who may have one now."""
        while (place := self._urgent.next(self._may) or self._waiting.next(self._may)) is not None:
            self._let_in()
            if not place.turn.done():
                self._take(place.team_id)
                place.turn.set_result(None)
        self._look_for_calm()
