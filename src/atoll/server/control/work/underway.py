"""
The work that is under way with sandboxes: one job for each, at most.

Knows nothing of what the work is; who finds a job here may wait for it, or stop it. What has to be done in
the end stays here until it is, so that no row is half done for longer than something is in the way.
"""

from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any

from atoll.server.control.turns.admission import Urgency
from atoll.server.control.work.retrying import tried
from atoll.server.control.work.tasks import Job, Tasks
from atoll.server.domain.errors import AtollError, NotFoundError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.clock import Clock


@dataclass(frozen=True, kw_only=True)
class _Work:
    job: Job[Sandbox]
    urgency: Urgency
    wish: Hashable | None


class Underway:
    """The jobs of pausing and resuming, by sandbox."""

    def __init__(self, tasks: Tasks, *, clock: Clock, settle_tries: int) -> None:
        """
        Args:
            tasks: own the jobs.
            clock: the time.
            settle_tries: how often ``settle`` tries before who waits is told.
        """
        self._tasks = tasks
        self._clock = clock
        self._tries = settle_tries
        self._works: dict[SandboxId, _Work] = {}

    def get(self, sandbox_id: SandboxId) -> Job[Sandbox] | None:
        """Return what is under way with a sandbox."""
        work = self._works.get(sandbox_id)
        return None if work is None else work.job

    def wished(self, sandbox_id: SandboxId, wish: Hashable) -> Job[Sandbox] | None:
        """Return what is under way with a sandbox, if it was begun for the same wish."""
        work = self._works.get(sandbox_id)
        return None if work is None or work.wish != wish else work.job

    def begin(
        self,
        row: Sandbox,
        work: Callable[[], Coroutine[Any, Any, Sandbox]],
        urgency: Urgency | None = None,
        *,
        wish: Hashable | None = None,
    ) -> Job[Sandbox]:
        """
        Begin what the row's status says, in place of what was under way before.

        Args:
            row: whose.
            work: does it.
            urgency: what the work takes its turn with; None: it takes none.
            wish: what ``wished`` finds it by; None: nothing.

        Raises:
            UnavailableError: the server stops.
        """
        job = self._tasks.job(f"{row.status} {row.id}", work)
        self._works[row.id] = begun = _Work(job=job, urgency=urgency or Urgency(), wish=wish)

        def over(_: object) -> None:
            if self._works.get(row.id) is begun:
                del self._works[row.id]

        job.outcome.add_done_callback(over)
        return job

    async def settle(
        self,
        row: Sandbox,
        now: Callable[[], Coroutine[Any, Any, Sandbox]],
        later: Callable[[], Coroutine[Any, Any, Sandbox]],
    ) -> Sandbox:
        """
        Bring what is under way with a sandbox to its end, which has to be: a few times for who waits, then
        behind them until it is done, the sandbox is killed, or the server stops (the next one does it then).

        Args:
            row: as it is while that is under way.
            now: does it; called for each try.
            later: does it where much may have happened meanwhile; called for each try after those.

        Raises:
            NotFoundError: it is being removed.
            UnavailableError: it is not done yet; details say what was in the way.
        """
        what = f"settle {row.status} {row.id}"
        try:
            return await tried(self._clock, what, now, times=self._tries)
        except NotFoundError:
            raise
        except Exception as error:
            work = self._works.get(row.id)
            # Who wanted that still does.
            self.begin(row, lambda: tried(self._clock, what, later), wish=None if work is None else work.wish)
            raise UnavailableError(
                f"Sandbox {row.id} is neither paused nor running yet",
                details=str(error) or type(error).__name__,
                resolution="The server keeps trying; see its log.",
            ) from error

    def hurry(self, sandbox_id: SandboxId) -> None:
        """Say that a request is held up by what is under way with a sandbox."""
        if work := self._works.get(sandbox_id):
            work.urgency.rise()

    def stop(self, sandbox_id: SandboxId, error: AtollError) -> None:
        """Stop what is under way with a sandbox; those who wait for it get the error."""
        if work := self._works.get(sandbox_id):
            work.job.cancel(error)

    def stop_all(self) -> tuple[Job[Sandbox], ...]:
        """Stop everything, because the server stops, and return it: it goes back to where it was."""
        jobs = tuple(work.job for work in self._works.values())
        for job in jobs:
            job.cancel()
        return jobs
