"""
Asks guests whether they answer: their guestd may have been stopped, or hang.

Nothing asks without a reason. A caller got no answer, and the edge tells of it: then a guest that gives none
is the end of its sandbox. Or its memory is about to be kept, and the row says so (``checkpointing``).
"""

import asyncio
from weakref import WeakValueDictionary

import structlog

from atoll.server.control.machines.killing import End, Killing
from atoll.server.control.turns.locks import Locks
from atoll.server.control.work.tasks import Job, Tasks
from atoll.server.domain.errors import AtollError, NotFoundError, UnavailableError
from atoll.server.domain.ids import SandboxId, TeamId, parse_sandbox_id
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.ports.guest import Guest
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)

# Questions under way in one team, each a connection for ten seconds at most; no other team's wait for them.
MOST_ASKED = 64


class Probing:
    """Asks guests; one question at a time for each."""

    def __init__(self, *, store: Store, guest: Guest, locks: Locks, tasks: Tasks, killing: Killing) -> None:
        self._store = store
        self._guest = guest
        self._locks = locks
        self._tasks = tasks
        self._killing = killing
        self._underway: dict[SandboxId, Job[None]] = {}
        # Those of teams that ask right now.
        self._places: WeakValueDictionary[TeamId, asyncio.Semaphore] = WeakValueDictionary()

    async def ask(self, row: Sandbox) -> None:
        """
        Return once the guest of a sandbox that has a machine has answered; who calls holds its lock.

        Raises:
            UnavailableError: it does not answer.
        """
        assert row.address is not None
        places = self._places.setdefault(row.team_id, asyncio.Semaphore(MOST_ASKED))
        async with places:
            await self._guest.probe(Machine(sandbox_id=row.id, address=row.address))

    def suspect(self, untrusted_id: str) -> None:
        """
        Begin to find out whether a sandbox's guest answers, and end it as ``guest_hung`` if it does not.

        Raises:
            InvalidArgumentError: the id has another form.
            UnavailableError: the server stops.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        if sandbox_id not in self._underway:
            job = self._tasks.job(f"probe {sandbox_id}", lambda: self._probe(sandbox_id))
            self._underway[sandbox_id] = job
            job.outcome.add_done_callback(lambda _: self._underway.pop(sandbox_id, None))

    async def _probe(self, sandbox_id: SandboxId) -> None:
        # In turn: one that is just written down stands still, and does not answer until it goes on.
        async with self._locks.hold(sandbox_id):
            try:
                row = await self._store.get_sandbox(sandbox_id)
            except NotFoundError:
                return
            if row.status is not Status.RUNNING or row.address is None:
                return
            try:
                await self.ask(row)
            except UnavailableError as error:
                silence = error.details or str(error)
            else:
                return

            def still(now: Sandbox) -> bool:
                return now.status is Status.RUNNING and now.generation == row.generation

            log.warning("guest hung", sandbox_id=sandbox_id, error=silence)
            end = End(reason=EndReason.GUEST_HUNG, detail=f"guestd does not answer: {silence}")
            try:
                await self._killing.begin(sandbox_id, end, if_still=still)
            except AtollError as error:
                # Whoever calls next, complains again.
                log.warning("end not recorded", sandbox_id=sandbox_id, error=str(error))
