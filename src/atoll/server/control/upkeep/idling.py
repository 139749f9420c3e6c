"""
Pauses, or ends, sandboxes that nobody calls.

The edge knows who is called. It is asked when a sandbox could have idled for long enough, and says how long
that takes at least; guests are never asked.
"""

from dataclasses import replace
from datetime import datetime

import structlog

from atoll.server.control.lifecycle.pausing import Pausing
from atoll.server.control.machines.killing import End, Killing
from atoll.server.control.rows.changing import change
from atoll.server.control.work.alarm import Alarm
from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.sandbox import EndReason, OnDeadline, Sandbox, Status
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Idling:
    """Keeps idle timeouts."""

    def __init__(self, *, store: Store, edge: Edge, clock: Clock, killing: Killing, pausing: Pausing) -> None:
        self._store = store
        self._edge = edge
        self._clock = clock
        self._killing = killing
        self._pausing = pausing
        self._alarm = Alarm("idle timeout", clock, self._look_at_one)

    def appeared(self, row: Sandbox) -> None:
        """Know of a sandbox that begins to run."""
        self._alarm.appeared(row.idle_due)

    async def run(self) -> None:
        """Look when it is time, for ever."""
        await self._alarm.run()

    async def _look_at_one(self) -> datetime | None:
        row = await self._store.next_idle()
        if row is None or row.idle_due is None or row.upkeep.idle_timeout is None:
            return None
        if row.idle_due > self._clock.now():
            return row.idle_due
        left = await self._edge.retire(row.id, idle_for=row.upkeep.idle_timeout)
        if left is not None:
            await self._put_off(row, self._clock.now() + left)
            return row.idle_due
        log.info("sandbox idles", sandbox_id=row.id, idle_timeout=row.upkeep.idle_timeout.total_seconds())
        # A pause that fails is tried again after as long a time.
        await self._put_off(row, self._clock.now() + row.upkeep.idle_timeout)
        if row.on_deadline is OnDeadline.KILL and not row.upkeep.persistent:
            end = End(reason=EndReason.IDLE, detail="nobody called it")
            await self._killing.begin(row.id, end, if_still=lambda found: found.status is Status.RUNNING)
        else:
            await self._pausing.expire(row, if_still=lambda found: found.generation == row.generation)
        return row.idle_due

    async def _put_off(self, row: Sandbox, due: datetime) -> None:
        def later(found: Sandbox) -> Sandbox:
            return replace(found, idle_due=due) if found.idle_due == row.idle_due else found

        try:
            await change(self._store, row.id, later)
        except NotFoundError:
            return
