"""
Ends sandboxes that are there, but answer nobody: their guestd was stopped, or hangs.

Nothing asks an idle guest. Only when a caller got no answer does the edge tell, and then guestd is asked.
"""

import structlog

from atoll.server.control.killing import End, Killing
from atoll.server.control.locks import Locks
from atoll.server.control.tasks import Job, Tasks
from atoll.server.domain.errors import AtollError, NotFoundError, UnavailableError
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.ports.guest import Guest
from atoll.server.ports.store import Store

log = structlog.get_logger(__name__)


class Probing:
    """Asks guests about whom somebody complains; one question at a time for each."""

    def __init__(self, *, store: Store, guest: Guest, locks: Locks, tasks: Tasks, killing: Killing) -> None:
        self._store = store
        self._guest = guest
        self._locks = locks
        self._tasks = tasks
        self._killing = killing
        self._underway: dict[SandboxId, Job[None]] = {}

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
                await self._guest.probe(Machine(sandbox_id=sandbox_id, address=row.address))
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
