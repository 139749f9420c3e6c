"""The port to what sandboxes used: samples that are kept, a bounded number, for a bounded time."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.metrics import Sample


class Samples(Protocol):
    """
    Keeps samples.

    Losing the last few in a crash of the machine is no harm; a crash of the server loses none.
    """

    async def add(self, taken: Mapping[SandboxId, Sample]) -> None:
        """
        Keep one more sample of each of these sandboxes; of one that has as many as it may, old ones go.

        Raises:
            ResourceExhaustedError: the disk is full; some may be kept.
            InternalError: they cannot be written.
        """
        ...

    async def read(
        self, sandbox_id: SandboxId, *, start: datetime | None = None, end: datetime | None = None
    ) -> Sequence[Sample]:
        """
        Read samples in the order of their taking, both ends included; none of a sandbox that has none.

        With ``start`` there is one more sample in front, the last one before, where it is kept.
        """
        ...

    async def last(
        self, sandbox_ids: Sequence[SandboxId], number: int
    ) -> Mapping[SandboxId, Sequence[Sample]]:
        """Read the last few of each, oldest first; those that have none miss."""
        ...

    async def forget(self, *, before: datetime, most_bytes: int) -> int:
        """
        Forget all of sandboxes whose last sample is older, then of those that were quiet longest until what
        is kept takes less room; return of how many.
        """
        ...
