"""The port to logs of sandboxes: lines that are kept, so many bytes of them, for a bounded time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.logs import Line


class Lines(Protocol):
    """
    Keeps lines of guests.

    Losing the last few in a crash of the machine is no harm; a crash of the server loses none.
    """

    async def add(self, sandbox_id: SandboxId, lines: Sequence[Line]) -> None:
        """
        Keep more lines of a sandbox; when it has as many as it may, the oldest go.

        Raises:
            ResourceExhaustedError: the disk is full; some may be kept.
            InternalError: they cannot be written.
        """
        ...

    async def read(self, sandbox_id: SandboxId) -> Sequence[Line]:
        """Read all there are, in the order of their coming."""
        ...

    async def forget(self, *, before: datetime, most_bytes: int) -> int:
        """
        Forget all of sandboxes whose last line is older, then of those that were quiet longest until what
        is kept takes less room; return of how many.
        """
        ...
