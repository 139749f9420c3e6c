"""
Brings rows and machines into agreement: once at the start, then with each thing that happens.

At the start a machine may have lost its row, and a row its machine; a create or a kill may have
been cut off anywhere. The row decides what should be, the machine shows what is.
"""

from dataclasses import replace

import structlog

from atoll.server.control.lifecycle.creating import Creating
from atoll.server.control.lifecycle.networking import Networking
from atoll.server.control.lifecycle.snapshots import Snapshots
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.killing import End, Killing
from atoll.server.control.rows.changing import change
from atoll.server.control.rows.unfinished import unfinished
from atoll.server.control.upkeep.reviving import Reviving
from atoll.server.control.upkeep.settling import Settling
from atoll.server.control.warm.pool import Pool
from atoll.server.control.warm.warming import Warming
from atoll.server.control.work.retrying import rest
from atoll.server.control.work.tasks import Tasks
from atoll.server.domain.errors import AtollError, NotFoundError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import EventsLost, Machine, MachineEnded, ProcessKilledForMemory
from atoll.server.domain.sandbox import SLEEPING, EndReason, Sandbox, Status
from atoll.server.domain.upkeep import Restart
from atoll.server.ports.clock import Clock
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Reconciling:
    """Adopts, ends and removes, as rows and machines demand."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        clock: Clock,
        limits: ControlLimits,
        tasks: Tasks,
        creating: Creating,
        settling: Settling,
        snapshots: Snapshots,
        killing: Killing,
        networking: Networking,
        pool: Pool,
        warming: Warming,
        reviving: Reviving,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._clock = clock
        self._limits = limits
        self._tasks = tasks
        self._creating = creating
        self._settling = settling
        self._snapshots = snapshots
        self._killing = killing
        self._networking = networking
        self._pool = pool
        self._warming = warming
        # Those that are being looked at.
        self._suspects: set[SandboxId] = set()
        self._reviving = reviving

    async def reconcile(self) -> None:
        """Open the runtime, and adopt, undo, finish or remove what an earlier server left."""
        machines = {machine.sandbox_id: machine for machine in await self._runtime.open()}
        strays = set(await self._runtime.remains()) | set(machines)
        rows = await unfinished(self._store)
        kept = await self._snapshots.take_up() | await self._warming.take_up()
        await self._settling.sweep(rows, kept)
        for row in rows:
            strays.discard(row.id)
            await self._take_up(row, machines.get(row.id))
        for sandbox_id in strays:
            self._killing.remove(sandbox_id)
        log.info("reconciled", machines=len(machines), strays=len(strays))

    async def follow(self) -> None:
        """Act on what machines do by themselves, for ever."""
        async for event in self._runtime.events():
            match event:
                case MachineEnded():
                    self._machine_ended(event)
                case ProcessKilledForMemory():
                    await self._process_killed(event)
                case EventsLost():
                    await self._observe_surely()
        # Without events, ended machines would stay running in the rows. The next start finds them.
        raise RuntimeError("the runtime stopped telling what happens")

    async def suspect(self, sandbox_id: SandboxId) -> None:
        """Have a machine looked at that somebody could not reach; the caller waits for nothing."""
        row = await self._store.get_sandbox(sandbox_id)
        if row.status is not Status.RUNNING or sandbox_id in self._suspects:
            return
        self._suspects.add(sandbox_id)
        job = self._tasks.job(f"probe {sandbox_id}", lambda: self._runtime.end_if_hung(sandbox_id))
        job.outcome.add_done_callback(lambda _: self._suspects.discard(sandbox_id))

    async def end_all(self, end: End) -> None:
        """Begin to end every sandbox that is not ended."""
        for row in await unfinished(self._store):
            # What is on the disk stays there, for when the home is up again.
            if row.status in (Status.PAUSED, Status.RESUMING) or await self._settling.end_whole(row):
                continue
            await self._killing.begin(row.id, end)

    async def _lost(self, row: Sandbox) -> None:
        end = End(reason=EndReason.LOST, detail="no machine was there when the server started")
        if row.upkeep.persistent or row.upkeep.restart is not Restart.NEVER:
            # What brings it back may fail for now, and the start must not.
            self._tasks.job(f"end {row.id}", lambda: self._killing.insist(row.id, end))
        else:
            await self._killing.begin(row.id, end)

    async def _take_up(self, row: Sandbox, machine: Machine | None) -> None:
        match row.status:
            case Status.RUNNING if machine is not None:
                await self._adopt(row, machine)
            case Status.RUNNING:
                await self._lost(row)
            case Status.CREATING:
                await self._end(row, EndReason.START_INTERRUPTED, "the server stopped during the start")
            case _ if row.status in SLEEPING:
                found = await self._settling.take_up(row, machine)
                if found.status is Status.RUNNING and machine is not None:
                    await self._adopt(found, machine)
                elif found.status is Status.PAUSED and found.is_falling and _is_left(row, found):
                    self._reviving.resume(row.id)
            case _:
                self._killing.remove(row.id)

    async def _adopt(self, row: Sandbox, machine: Machine) -> None:
        if row.address != machine.address:
            log.warning(
                "sandbox has another address", sandbox_id=row.id, row=row.address, machine=machine.address
            )
            await change(self._store, row.id, lambda row: replace(row, address=machine.address))
        # A server may have been killed between the row's change and the machine's.
        await self._networking.catch_up(row.id)
        log.info("sandbox adopted", sandbox_id=row.id)

    async def _end(self, row: Sandbox, reason: EndReason, detail: str) -> None:
        await self._killing.begin(row.id, End(reason=reason, detail=detail))

    async def _observe_surely(self) -> None:
        """Find out from the machines what the lost events would have told; the next events wait meanwhile."""
        while True:
            try:
                await self._observe()
            except AtollError as error:
                log.warning("machines not looked at", error=str(error))
                await rest(self._clock)
                continue
            return

    async def _observe(self) -> None:
        # Rows first: a machine whose row says running was there by then; when it is not there now, it ended.
        rows = await unfinished(self._store)
        seen = await self._runtime.observe()
        for event in seen.ended:
            self._machine_ended(event)
        known = {machine.sandbox_id for machine in seen.machines} | {event.sandbox_id for event in seen.ended}
        gone = [row for row in rows if row.status is Status.RUNNING and row.id not in known]
        for row in gone:
            end = End(reason=EndReason.LOST, detail="its machine was gone, and nobody had told its end")
            await self._killing.begin(row.id, end, if_still=lambda row: row.status is Status.RUNNING)
        log.warning("all machines looked at, since events were lost", ended=len(seen.ended), gone=len(gone))

    def _machine_ended(self, event: MachineEnded) -> None:
        end = End(reason=event.reason, detail=event.detail)
        log.info("machine ended", sandbox_id=event.sandbox_id, reason=event.reason, detail=event.detail)
        error = UnavailableError("The sandbox ended while it was being started", details=event.detail)
        self._pool.lost(event.sandbox_id)
        if not self._creating.machine_ended(event.sandbox_id, end, error):
            self._tasks.job(f"end {event.sandbox_id}", lambda: self._end_surely(event.sandbox_id, end, error))

    async def _end_surely(self, sandbox_id: SandboxId, end: End, error: AtollError) -> None:
        while True:
            try:
                if not await self._settling.machine_ended(sandbox_id, error):
                    await self._killing.begin(sandbox_id, end)
            except NotFoundError:
                self._killing.remove(sandbox_id)
            except AtollError as problem:
                log.warning("end not recorded", sandbox_id=sandbox_id, error=str(problem))
                await rest(self._clock)
                continue
            return

    async def _process_killed(self, event: ProcessKilledForMemory) -> None:
        log.info(
            "process killed for memory",
            sandbox_id=event.sandbox_id,
            pid=event.pid,
            command=event.command,
            resident_bytes=event.resident_bytes,
        )
        try:
            await self._store.add_memory_kill(event, keep=self._limits.memory_kills_kept)
        except NotFoundError:
            log.info("a machine without a row had a process killed", sandbox_id=event.sandbox_id)
        except AtollError as error:
            # It stands in the log above; the next events must not wait for a full disk.
            log.warning("kill for memory not recorded", sandbox_id=event.sandbox_id, error=str(error))


def _is_left(row: Sandbox, found: Sandbox) -> bool:
    """Tell whether nobody brings it back yet; what fell just now, as its pause was settled, is under way."""
    return row.status is not Status.PAUSING or found.fall == row.fall
