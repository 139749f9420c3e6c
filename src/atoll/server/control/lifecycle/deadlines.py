"""
Deadlines: setting them, and ending what passed its own.

The reaper (``work/alarm.py``) asks the rows twice for each sandbox, and never just to look.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.killing import End, Killing
from atoll.server.control.rows import checking
from atoll.server.control.rows.changing import change
from atoll.server.control.work.alarm import Alarm
from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, OnDeadline, Sandbox, Status, pausing_at_deadline
from atoll.server.ports.clock import Clock
from atoll.server.ports.store import Store


class Deadlines:
    """Sets deadlines and keeps them."""

    def __init__(self, *, store: Store, clock: Clock, limits: ControlLimits, killing: Killing) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._killing = killing
        # Given by whoever can; without it, all is killed at its deadline.
        self.pause: Callable[[Sandbox], Awaitable[None]] | None = None
        # Who else looks after sandboxes, and is told of one that begins to run.
        self.others: list[Callable[[Sandbox], None]] = []
        self._alarm = Alarm("deadline", clock, self._reap_one)

    async def set_timeout(
        self, sandbox_id: SandboxId, from_now: timedelta, check: Callable[[Sandbox], None]
    ) -> Sandbox:
        """Move a deadline, in either direction, of a row that has one, and that ``check`` does not refuse."""
        checking.check_timeout(from_now, self._limits, zero=True)
        deadline = self._clock.now() + from_now

        def refuse(row: Sandbox) -> None:
            check(row)
            if row.upkeep.persistent:
                raise FailedPreconditionError(f"Sandbox {row.id} is persistent: it has no deadline")

        return await self._move(sandbox_id, refuse, lambda row: replace(row, deadline=deadline))

    async def refresh(
        self,
        sandbox_id: SandboxId,
        from_now: timedelta,
        check: Callable[[Sandbox], None],
        *,
        auto_pause: bool = False,
    ) -> Sandbox:
        """
        Move a deadline, but only to later, of a row that ``check`` does not refuse.

        With ``auto_pause``, it is paused then, if it was to be killed.
        """
        checking.check_timeout(from_now, self._limits)
        deadline = self._clock.now() + from_now

        def later(row: Sandbox) -> Sandbox:
            row = replace(row, deadline=max(row.deadline, deadline))
            return pausing_at_deadline(row) if auto_pause else row

        return await self._move(sandbox_id, check, later)

    def began(self, row: Sandbox) -> None:
        """Let all know of a sandbox that begins to run."""
        self._alarm.appeared(row.deadline)
        for tell in self.others:
            tell(row)

    async def reap(self) -> None:
        """End what passes its deadline, for ever."""
        await self._alarm.run()

    async def _reap_one(self) -> datetime | None:
        row = await self._store.next_deadline()
        if row is None:
            return None
        if row.deadline <= self._clock.now():
            if row.on_deadline is not OnDeadline.KILL and self.pause is not None:
                await self.pause(row)
                return row.deadline
            end = End(reason=EndReason.DEADLINE, detail=f"deadline {row.deadline.isoformat()}")
            await self._killing.begin(row.id, end, if_still=self._is_due)
        return row.deadline

    def _is_due(self, row: Sandbox) -> bool:
        return row.status is Status.RUNNING and row.deadline <= self._clock.now()

    async def _move(
        self,
        sandbox_id: SandboxId,
        check: Callable[[Sandbox], None],
        to: Callable[[Sandbox], Sandbox],
    ) -> Sandbox:
        def moved(row: Sandbox) -> Sandbox:
            check(row)
            return to(row)

        row = await change(self._store, sandbox_id, moved)
        self._alarm.appeared(row.deadline)
        return row
