"""
Takes snapshots of sandboxes on their schedule, one after the other, and removes the oldest of those.

They go the way of all snapshots (``lifecycle/snapshots.py``), after creates and resumes that wait for their
turn. One that cannot be taken is skipped, and its row says why.
"""

from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from atoll.server.control.lifecycle.snapshots import Snapshots
from atoll.server.control.limits import ControlLimits
from atoll.server.control.rows.changing import change
from atoll.server.control.turns.admission import Admission
from atoll.server.control.work.alarm import Alarm
from atoll.server.domain.errors import AtollError, NotFoundError
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.domain.upkeep import Skip
from atoll.server.ports.clock import Clock
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

# How soon is looked again whether creates still wait.
_LOOK_AGAIN = timedelta(seconds=1)


class Scheduling:
    """Keeps the schedules."""

    def __init__(
        self,
        *,
        store: Store,
        snapshots: Snapshots,
        clock: Clock,
        limits: ControlLimits,
        admission: Admission,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._clock = clock
        self._limits = limits
        self._admission = admission
        self._alarm = Alarm("snapshot", clock, self._take_one)

    def appeared(self, row: Sandbox) -> None:
        """Know of a sandbox that begins to run."""
        self._alarm.appeared(row.snapshot_due)

    async def run(self) -> None:
        """Take what is due, for ever."""
        await self._alarm.run()

    async def _take_one(self) -> datetime | None:
        row = await self._store.next_snapshot()
        if row is None or row.snapshot_due is None:
            return None
        if row.snapshot_due > self._clock.now():
            return row.snapshot_due
        await self._let_others_go_first()
        skip: Skip | None = None
        try:
            await self._snapshots.take_scheduled(row)
        except AtollError as error:
            log.warning("scheduled snapshot not taken", sandbox_id=row.id, error=str(error))
            skip = Skip(at=self._clock.now(), why=error.message)
        await self._note(row, skip)
        return row.snapshot_due

    async def _let_others_go_first(self) -> None:
        latest = self._clock.now() + self._limits.snapshot_waits
        while self._admission.waiting and self._clock.now() < latest:
            await self._clock.sleep_until(self._clock.now() + _LOOK_AGAIN)

    async def _note(self, row: Sandbox, skip: Skip | None) -> None:
        every = row.upkeep.snapshot_every
        due = self._clock.now() + every if every is not None else None

        def noted(found: Sandbox) -> Sandbox:
            if found.status is not Status.RUNNING or found.snapshot_due != row.snapshot_due:
                # It was paused and is back, say, and has a new time.
                return found
            return replace(found, snapshot_due=due, snapshot_skip=skip)

        try:
            await change(self._store, row.id, noted)
        except NotFoundError:
            return
