"""
Keeps the names of live sandboxes where programs of this machine look them up.

A create waits until its names are there. Changes that come while one is written are written together.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from atoll.server.domain.errors import AtollError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.clock import Clock
from atoll.server.ports.names import NamesFile
from atoll.server.ports.store import MOST_ROWS, Page, SandboxFilter, Store

log = structlog.get_logger(__name__)

_LIVE = SandboxFilter(statuses=frozenset({Status.RUNNING}))
# Writing takes milliseconds. A create that waited this long is answered without its names.
_PATIENCE_S = 3.0


class Naming:
    """``run`` in a task; ``changed`` at each change of a row."""

    def __init__(self, *, store: Store, names: NamesFile, clock: Clock, pause: timedelta) -> None:
        """
        Args:
            store: the rows.
            names: where names are kept.
            clock: waits.
            pause: the least time between two writes.
        """
        self._store = store
        self._names = names
        self._clock = clock
        self._pause = pause
        self._called = asyncio.Event()
        # What everybody waits for whose change is not being written yet.
        self._next: asyncio.Future[None] | None = None

    async def changed(self, old: Sandbox, new: Sandbox) -> None:
        """Hear of a row; returns when a sandbox that appeared is found, at once for all else."""
        lived, lives = old.status is Status.RUNNING, new.status is Status.RUNNING
        if lived == lives or not self._names.wanted():
            return
        written = self._call()
        if lives:
            try:
                await asyncio.wait_for(asyncio.shield(written), _PATIENCE_S)
            except (AtollError, TimeoutError):
                # Logged where it failed. The sandbox is there all the same, by its other names.
                log.warning("names of a sandbox are not found yet", sandbox_id=new.id)

    async def refresh(self) -> None:
        """
        Return when the names are those of the sandboxes that live now.

        Raises:
            FailedPreconditionError: they cannot be kept where they are wanted.
            UnavailableError: it takes too long.
        """
        try:
            await asyncio.wait_for(asyncio.shield(self._call()), _PATIENCE_S)
        except TimeoutError as error:
            raise UnavailableError("Names of sandboxes are not written in time") from error

    async def run(self) -> None:
        """Write what is called for, until cancelled; once at the start: the last server may have died."""
        self._call()
        while True:
            await self._called.wait()
            self._called.clear()
            written, self._next = self._next, None
            assert written is not None
            await self._write(written)
            await self._clock.sleep_until(self._clock.now() + self._pause)

    async def _write(self, written: "asyncio.Future[None]") -> None:
        try:
            if self._names.wanted():
                live, left_out = await self._live()
                await self._names.put(live, left_out=left_out)
        except AtollError as error:
            log.warning("names of sandboxes not written", error=str(error))
            written.set_exception(error)
            # Somebody may wait for it, and nobody need.
            written.exception()
        except BaseException:
            written.cancel()
            raise
        else:
            written.set_result(None)

    async def _live(self) -> tuple[Sequence[SandboxId], int]:
        """List those that live, the newest first, as far as there is room; and how many more there are."""
        room, after = self._names.room, None
        found: list[SandboxId] = []
        while len(found) < room:
            page = Page(limit=min(MOST_ROWS, room - len(found)), after=after)
            rows = await self._store.list_sandboxes(_LIVE, page)
            found += [row.id for row in rows]
            if len(rows) < page.limit:
                return found, 0
            after = (rows[-1].created_at, rows[-1].id)
        return found, max(0, await self._store.count_sandboxes(_LIVE) - len(found))

    def _call(self) -> "asyncio.Future[None]":
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._called.set()
        return self._next
