"""The queue between what sees things happen to machines and who reads: bounded, and no loss is silent."""

import asyncio
from collections.abc import AsyncIterator

import structlog

from atoll.server.domain.machine import EventsLost, MachineEvent

log = structlog.get_logger(__name__)


class EventQueue:
    """Takes events without waiting, for one reader at a time."""

    def __init__(self, most: int) -> None:
        """
        Args:
            most: events that nobody has read yet; what comes beyond is lost, and that is told.
        """
        self._queue: asyncio.Queue[MachineEvent] = asyncio.Queue(most)
        self._lost = 0

    def put(self, event: MachineEvent) -> None:
        """Add an event, if there is room."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            # One line for a flood: a sandbox can cause it, and the log is not for it to fill.
            if not self._lost:
                log.warning("events are lost; nobody reads", event_type=type(event).__name__)
            self._lost += 1

    async def read(self) -> AsyncIterator[MachineEvent]:
        """Give the events, for ever; before the next one, that some were lost."""
        while True:
            if self._lost:
                lost, self._lost = self._lost, 0
                yield EventsLost(number=lost)
            # A full queue is what loses events, so whoever waits here has lost none.
            yield await self._queue.get()
