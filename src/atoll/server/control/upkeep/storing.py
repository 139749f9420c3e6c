"""
Keeps what is stored small, behind everybody else: packs, drops raw copies, sweeps, collects; one at a time.

Nothing waits for it, and nothing of it is lost with a server: the next one reads off the disk what there is
to do.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from atoll.server.control.requests import Actor
from atoll.server.control.rows.room import ALIVE
from atoll.server.control.storage_limits import StorageLimits
from atoll.server.domain.errors import AtollError, PermissionDeniedError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.keys import KeyKind
from atoll.server.domain.storage import Collected, Needed
from atoll.server.ports.checkpoints import Packing
from atoll.server.ports.clock import Clock
from atoll.server.ports.collector import Collector
from atoll.server.ports.snapshots import SnapshotStore
from atoll.server.ports.store import MOST_ROWS, Page, SandboxFilter, Store

log = structlog.get_logger(__name__)

# Whatever the settings say: looking must not be all that the server does.
LEAST_PAUSE = timedelta(seconds=1)


class Storing:
    """Packs and collects, on its own and when asked."""

    def __init__(
        self,
        *,
        store: Store,
        snapshots: SnapshotStore,
        packing: Packing | None,
        collectors: Sequence[Collector],
        clock: Clock,
        limits: StorageLimits,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._packing = packing
        self._collectors = collectors
        self._clock = clock
        self._limits = limits
        self._turn = asyncio.Lock()
        self._swept_at: datetime | None = None
        self._collected_at = clock.now()

    async def run(self) -> None:
        """Do what there is to do, wait, and look again, for ever."""
        pause = max(self._limits.pack_every, LEAST_PAUSE)
        while True:
            await self.work()
            await self._clock.sleep_until(self._clock.now() + pause)

    async def work(self) -> None:
        """Do once what there is to do now."""
        if self._packing is not None:
            await self._pack(self._packing)
        every = self._limits.collect_every
        if every and self._clock.now() >= self._collected_at + every:
            await self._collect(dry=False)

    async def collect(self, actor: Actor, *, dry: bool) -> Collected:
        """
        Remove what nobody needs: see ``domain/storage.py``.

        Args:
            actor: who asks.
            dry: only find it.

        Raises:
            PermissionDeniedError: not with this key.
        """
        if actor.kind is not KeyKind.HOME:
            raise PermissionDeniedError(
                "What nobody needs is collected with the home's own key",
                resolution="'atoll env' prints it.",
            )
        return await self._collect(dry=dry)

    async def _pack(self, packing: Packing) -> None:
        try:
            while await self._pack_one(packing):
                pass
        except AtollError as error:
            log.warning("checkpoint not packed", error=str(error), details=error.details)
        try:
            async with self._turn:
                await packing.drop_raw()
                await self._sweep(packing)
        except AtollError as error:
            log.warning("storage not tidied", error=str(error), details=error.details)

    async def _pack_one(self, packing: Packing) -> bool:
        # Who collects meanwhile comes next: there may be many to pack.
        async with self._turn:
            packed = await packing.pack_next()
            if packed:
                await packing.drop_raw()
            return packed

    async def _sweep(self, packing: Packing) -> None:
        now = self._clock.now()
        if self._swept_at is not None and now < self._swept_at + self._limits.sweep_every:
            return
        self._swept_at = now
        await packing.sweep()

    async def _collect(self, *, dry: bool) -> Collected:
        async with self._turn:
            found = Collected()
            for collector in self._collectors:
                found += await collector.collect(self._needed, dry=dry)
            if not dry:
                self._collected_at = self._clock.now()
        for one in found.leftovers:
            log.info("found" if dry else "removed", kind=one.kind, name=one.name, bytes=one.size_bytes)
        for problem in found.problems:
            log.warning("not collected", problem=problem)
        return found

    async def _needed(self) -> Needed:
        checkpoints, templates = set[str](), set[TemplateId]()
        page = Page(limit=MOST_ROWS, newest_first=False)
        # First the snapshots: a fork's goes once there are rows that were created from it.
        for snapshot in await self._snapshots.all_snapshots():
            checkpoints.add(snapshot.id)
            templates.add(snapshot.template_id)
        while True:
            rows = await self._store.list_sandboxes(SandboxFilter(statuses=ALIVE), page)
            for row in rows:
                templates.add(row.template_id)
                if row.pause is not None:
                    checkpoints.add(row.pause.checkpoint)
            if len(rows) < MOST_ROWS:
                break
            page = Page(limit=MOST_ROWS, newest_first=False, after=(rows[-1].created_at, rows[-1].id))
        return Needed(checkpoints=frozenset(checkpoints), templates=frozenset(templates))
