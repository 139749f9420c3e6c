"""
Computes the checksums of checkpoints that their answers did not wait for: those of what is large.

What a server that was killed left without any is sealed by the next one, so that damage done later is found.
"""

from contextlib import suppress

import structlog

from atoll.server.control.work.tasks import Job, Tasks
from atoll.server.domain.errors import AtollError, FailedPreconditionError, NotFoundError, UnavailableError
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.runtime import Runtime

log = structlog.get_logger(__name__)


class Sealing:
    """Seals checkpoints, one after another where there are many."""

    def __init__(self, *, runtime: Runtime, checkpoints: Checkpoints, tasks: Tasks) -> None:
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._tasks = tasks
        self._jobs: dict[str, Job[None]] = {}

    def begin(self, checkpoint: str) -> None:
        """Seal one behind this; a no-op where the server stops, since the next one does it."""
        with suppress(UnavailableError):
            job = self._tasks.job(f"seal {checkpoint}", lambda: self._seal(checkpoint))
            self._jobs[checkpoint] = job

            def over(_: object) -> None:
                # One that was stopped may end after the next one began.
                if self._jobs.get(checkpoint) is job:
                    del self._jobs[checkpoint]

            job.outcome.add_done_callback(over)

    def stop(self, checkpoint: str) -> None:
        """Leave one as it is, since it is restored: reading all of it would only slow that down."""
        if job := self._jobs.get(checkpoint):
            job.cancel()

    async def run(self) -> None:
        """Seal what is there; cheap for what is sealed."""
        for checkpoint in sorted(await self._checkpoints.names()):
            await self._seal(checkpoint)

    async def _seal(self, checkpoint: str) -> None:
        try:
            await self._runtime.seal(self._checkpoints.path(checkpoint))
        except (FailedPreconditionError, NotFoundError) as error:
            # Resumed or deleted meanwhile, for the most part; a damaged one is refused when it is restored.
            log.info("checkpoint not sealed", checkpoint=checkpoint, error=str(error))
        except AtollError as error:
            log.warning("checkpoint not sealed", checkpoint=checkpoint, error=str(error))
