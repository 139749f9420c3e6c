"""A clock that is turned by hand."""

import asyncio
from datetime import UTC, datetime, timedelta

from typing_extensions import override

from atoll.server.ports.clock import Clock

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class FakeClock(Clock):
    """Stands still until ``advance``."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._sleepers: list[tuple[datetime, asyncio.Future[None]]] = []
        self._slept = asyncio.Event()

    @override
    def now(self) -> datetime:
        return self._now

    @override
    async def sleep_until(self, when: datetime) -> None:
        if when <= self._now:
            await asyncio.sleep(0)
            return
        sleeper = (when, asyncio.get_running_loop().create_future())
        self._sleepers.append(sleeper)
        self._slept.set()
        try:
            await sleeper[1]
        finally:
            self._sleepers.remove(sleeper)

    def advance(self, by: timedelta) -> None:
        """Turn the clock and wake who slept until then."""
        self._now += by
        for when, woken in self._sleepers:
            if when <= self._now and not woken.done():
                woken.set_result(None)

    async def slept_until(self, when: datetime) -> None:
        """Return when somebody sleeps until exactly then."""
        while all(until != when for until, _ in self._sleepers):
            self._slept.clear()
            await self._slept.wait()

    @property
    def sleepers(self) -> list[datetime]:
        """Until when somebody sleeps, earliest first."""
        return sorted(when for when, _ in self._sleepers)
