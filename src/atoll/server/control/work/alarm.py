"""Sleeps until the first moment there is, and is woken when an earlier one appears; never just looks."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog

from atoll.server.control.work.retrying import rest
from atoll.server.domain.errors import AtollError
from atoll.server.ports.clock import Clock

log = structlog.get_logger(__name__)


class Alarm:
    """Does what is due, one thing after the other."""

    def __init__(self, name: str, clock: Clock, step: Callable[[], Awaitable[datetime | None]]) -> None:
        """
        Args:
            name: for the log.
            clock: the time.
            step: does one thing that is due, or nothing; returns when the first is or was due; None: there
                is none.
        """
        self._name = name
        self._clock = clock
        self._step = step
        self._earlier = asyncio.Event()
        self._sleeps_until: datetime | None = None

    def appeared(self, due: datetime | None) -> None:
        """Say that there is something new; None: there is not."""
        if due is not None and (self._sleeps_until is None or due < self._sleeps_until):
            self._earlier.set()

    async def run(self) -> None:
        """Do what is due, for ever."""
        while True:
            self._earlier.clear()
            self._sleeps_until = None
            try:
                until = await self._step()
            except AtollError as error:
                log.warning("not done when it was due", what=self._name, error=str(error))
                await rest(self._clock)
                continue
            if until is None:
                await self._earlier.wait()
            elif until > self._clock.now():
                self._sleeps_until = until
                await self._sleep_or_hear(until)

    async def _sleep_or_hear(self, until: datetime) -> None:
        async with asyncio.TaskGroup() as group:
            either = [
                group.create_task(self._clock.sleep_until(until)),
                group.create_task(_wait(self._earlier)),
            ]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
