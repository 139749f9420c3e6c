"""Places where a fake fails or hangs because a test said so."""

import asyncio
from collections import Counter
from dataclasses import dataclass


@dataclass(kw_only=True)
class _Fault:
    error: BaseException | None
    times: int
    over: asyncio.Event


class Faults:
    """
    What goes wrong where.

    A place has a name, "start:2" or "forget"; a fake passes it by ``await faults.at(place)``.
    """

    def __init__(self) -> None:
        self._faults: dict[str, _Fault] = {}
        self._passing = asyncio.Condition()
        self.passed: Counter[str] = Counter()

    def fail(self, place: str, error: BaseException, *, times: int = 1) -> None:
        """Raise the error at a place, so many times; then go on as usual."""
        self._faults[place] = _Fault(error=error, times=times, over=asyncio.Event())

    def hang(self, place: str, *, times: int = 1) -> None:
        """Never return from a place, until cancelled, or ``let_go``."""
        self._faults[place] = _Fault(error=None, times=times, over=asyncio.Event())

    def let_go(self, place: str) -> None:
        """Have those go on that hang at a place, and nobody hang there any more."""
        fault = self._faults[place]
        fault.times = 0
        fault.over.set()

    async def reached(self, place: str, *, times: int = 1) -> None:
        """Return when a place has been reached so often in all, at once if it was before."""
        async with self._passing:
            await self._passing.wait_for(lambda: self.passed[place] >= times)

    async def at(self, place: str) -> None:
        """Pass a place. Yields once, so that others get to run there."""
        async with self._passing:
            self.passed[place] += 1
            self._passing.notify_all()
        await asyncio.sleep(0)
        fault = self._faults.get(place)
        if fault is None or fault.times == 0:
            return
        fault.times -= 1
        if fault.error is not None:
            raise fault.error
        await fault.over.wait()
