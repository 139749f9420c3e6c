"""
Removes what is left of machines that a checkpoint ended, behind the answer.

All of such a machine is on the disk and none of its programs runs, so nobody has to wait until the kernel has
its memory back: 0.1 s for 512 MB. Who wants to do anything else with the same sandbox does wait.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from atoll.server.domain.errors import AtollError
from atoll.server.domain.ids import SandboxId

log = structlog.get_logger(__name__)


class Leaving:
    """Owns those removals, one for each sandbox at most; ``close`` waits for all of them."""

    def __init__(self, remove: Callable[[SandboxId], Awaitable[None]]) -> None:
        """
        Args:
            remove: removes all of a machine but its slot; takes an end, if it cannot.
        """
        self._remove = remove
        self._removals: dict[SandboxId, asyncio.Future[None]] = {}

    def begin(self, sandbox_id: SandboxId) -> None:
        """Remove what is left of a sandbox's machine; a no-op while that goes on."""
        if sandbox_id not in self._removals:
            self._removals[sandbox_id] = removal = asyncio.ensure_future(self._run(sandbox_id))
            removal.add_done_callback(lambda _: self._removals.pop(sandbox_id))

    async def gone(self, sandbox_id: SandboxId) -> None:
        """Return when nothing is being removed of a sandbox; what would not go is still there."""
        if (removal := self._removals.get(sandbox_id)) is not None:
            await asyncio.wait([removal])

    async def close(self) -> None:
        """Wait for all of them."""
        if self._removals:
            await asyncio.wait(list(self._removals.values()))

    async def _run(self, sandbox_id: SandboxId) -> None:
        try:
            await self._remove(sandbox_id)
        except AtollError as error:
            # Whoever wants the sandbox next tries again, and so does the next start.
            log.warning("remains of a paused sandbox not removed", sandbox_id=sandbox_id, error=str(error))
