"""
The work that is under way with sandboxes: one job for each, at most.

Knows nothing of what the work is; who finds a job here may wait for it, or stop it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from atoll.server.control.tasks import Job, Tasks
from atoll.server.domain.errors import AtollError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import Sandbox


class Underway:
    """The jobs of pausing and resuming, by sandbox."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._jobs: dict[SandboxId, Job[Sandbox]] = {}

    def get(self, sandbox_id: SandboxId) -> Job[Sandbox] | None:
        """Return what is under way with a sandbox."""
        return self._jobs.get(sandbox_id)

    def begin(self, row: Sandbox, work: Callable[[], Coroutine[Any, Any, Sandbox]]) -> Job[Sandbox]:
        """
        Begin what the row's status says, in place of what was under way before.

        Raises:
            UnavailableError: the server stops.
        """
        job = self._tasks.job(f"{row.status} {row.id}", work)
        self._jobs[row.id] = job

        def over(_: object) -> None:
            if self._jobs.get(row.id) is job:
                del self._jobs[row.id]

        job.outcome.add_done_callback(over)
        return job

    def stop(self, sandbox_id: SandboxId, error: AtollError) -> None:
        """Stop what is under way with a sandbox; those who wait for it get the error."""
        if job := self._jobs.get(sandbox_id):
            job.cancel(error)

    def stop_all(self) -> tuple[Job[Sandbox], ...]:
        """Stop everything, because the server stops, and return it: it goes back to where it was."""
        jobs = tuple(self._jobs.values())
        for job in jobs:
            job.cancel()
        return jobs
