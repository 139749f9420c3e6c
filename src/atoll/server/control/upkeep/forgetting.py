"""
Forgets ended sandboxes when their time has come, at the start and then again and again.

Rows go a few at a time, since the store's calls keep everything else waiting. Nothing that lives is touched.
"""

import asyncio
from datetime import timedelta

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.domain.errors import AtollError
from atoll.server.ports.clock import Clock
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

# Whatever the settings say: looking must not be all that the server does.
LEAST_PAUSE = timedelta(seconds=1)


class Forgetting:
    """Deletes the rows of sandboxes that ended long ago."""

    def __init__(self, *, store: Store, clock: Clock, limits: ControlLimits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits

    async def run(self) -> None:
        """Forget what is old, wait, and look again, for ever."""
        pause = max(self._limits.forget_every, LEAST_PAUSE)
        while True:
            try:
                forgotten = await self._forget()
            except AtollError as error:
                # A full disk, say: the rows wait for the next time.
                log.warning("old sandboxes not forgotten", error=str(error))
            else:
                if forgotten:
                    log.info("old sandboxes forgotten", number=forgotten)
            await self._clock.sleep_until(self._clock.now() + pause)

    async def _forget(self) -> int:
        before = self._clock.now() - self._limits.keep_ended
        most = max(self._limits.forgotten_at_once, 1)
        forgotten = 0
        while True:
            number = await self._store.forget_sandboxes(ended_before=before, most=most)
            forgotten += number
            if number < most:
                return forgotten
            # The store's calls never yield: others take their turn here.
            await asyncio.sleep(0)
