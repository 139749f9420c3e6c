"""
Removes slots: all that wait at once.

When an interface goes, the kernel waits for every processor to let go of it, 20 to 40 ms; for many that go
together it waits once.
"""

import threading
from dataclasses import dataclass

import structlog

from atoll.server.domain.errors import AtollError
from atoll.server.network.making import SlotMaker
from atoll.server.network.workers import Worker

log = structlog.get_logger(__name__)

# Removed in one step. The kernel's networking stands still for all meanwhile, some 40 ms with so many.
MOST_AT_ONCE = 64


@dataclass(kw_only=True, eq=False)
class _Wanted:
    number: int
    done: bool = False
    error: AtollError | None = None


class SlotRemover:
    """Takes wishes on the event loop, and fulfils them in its worker's thread."""

    def __init__(self, maker: SlotMaker, worker: Worker) -> None:
        self._maker = maker
        self._worker = worker
        self._lock = threading.Lock()
        self._waiting: list[_Wanted] = []

    async def remove(self, number: int) -> None:
        """
        Remove a slot, also half of one; a no-op when there is none.

        A caller who is cancelled does not stop it.

        Raises:
            UnavailableError: the kernel refused, or did not finish in time.
        """
        wanted = _Wanted(number=number)
        with self._lock:
            self._waiting.append(wanted)
        await self._worker.run(self._turn, wanted)

    def _turn(self, wanted: _Wanted) -> None:
        """Remove all that wait, unless an earlier turn has removed this one with its own."""
        if not wanted.done:
            with self._lock:
                others = [other for other in self._waiting if other is not wanted]
                now = [wanted, *others[: MOST_AT_ONCE - 1]]
                self._waiting = others[MOST_AT_ONCE - 1 :]
            self._remove(now)
        if wanted.error is not None:
            raise wanted.error

    def _remove(self, these: list[_Wanted]) -> None:
        try:
            self._maker.remove_all([wanted.number for wanted in these])
        except AtollError as error:
            log.warning("slots are removed one by one", number=len(these), error=str(error))
            # One that does not go must not keep the others.
            for wanted in these:
                self._remove_one(wanted)
        for wanted in these:
            wanted.done = True

    def _remove_one(self, wanted: _Wanted) -> None:
        try:
            self._maker.remove(wanted.number)
        except AtollError as error:
            wanted.error = error
