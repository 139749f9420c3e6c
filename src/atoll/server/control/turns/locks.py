"""
One lock for each sandbox: a runtime's calls for one sandbox take turns.

Who holds a turn of ``admission`` waits for no lock of a sandbox that others know: first the lock, then the
turn, or the lock only where nobody has it. Else those who wait for one sandbox would hold all turns, of which
its holder needs one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from atoll.server.domain.ids import SandboxId


class Locks:
    """Locks by sandbox id; one that nobody holds or waits for takes no memory."""

    def __init__(self) -> None:
        self._locks: dict[SandboxId, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, sandbox_id: SandboxId) -> AsyncIterator[None]:
        """Wait for the sandbox's lock and hold it; first come, first served."""
        lock, users = self._locks.get(sandbox_id) or (asyncio.Lock(), 0)
        self._locks[sandbox_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[sandbox_id]
            if users == 1:
                del self._locks[sandbox_id]
            else:
                self._locks[sandbox_id] = (lock, users - 1)

    def held(self, sandbox_id: SandboxId) -> bool:
        """Tell whether somebody holds the sandbox's lock, or waits for it."""
        return sandbox_id in self._locks

    def __len__(self) -> int:
        """Count the locks that somebody holds or waits for."""
        return len(self._locks)
