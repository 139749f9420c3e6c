"""The port to where programs of this machine look names up, for those of live sandboxes."""

from collections.abc import Sequence
from typing import Protocol

from atoll.server.domain.ids import SandboxId


class NamesFile(Protocol):
    """Keeps the names of live sandboxes, if the operator wants them there."""

    @property
    def room(self) -> int:
        """How many sandboxes' names it takes at most, one or more."""
        ...

    def wanted(self) -> bool:
        """Say whether names are kept at all; asked at each change, so it takes microseconds."""
        ...

    async def put(self, sandbox_ids: Sequence[SandboxId], *, left_out: int) -> None:
        """
        Have names of exactly these sandboxes be found; nothing happens when none are wanted.

        Args:
            sandbox_ids: those that live; at most ``room``.
            left_out: how many live that there is no room for.

        Raises:
            FailedPreconditionError: they cannot be kept there.
        """
        ...
