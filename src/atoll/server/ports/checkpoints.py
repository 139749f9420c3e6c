"""The port to where checkpoints are kept."""

from pathlib import Path
from typing import Protocol

from atoll.server.domain.ids import SandboxId


class Checkpoints(Protocol):
    """
    Directories that runtimes write checkpoints into, by name: ``<sandbox id>-<more>`` what a sandbox comes
    back from, a snapshot's id what is kept of one.

    What a name stands for never changes; what there is under no name that anybody knows is removed.
    """

    def path(self, name: str) -> Path:
        """Where one is, or is to be."""
        ...

    async def names(self) -> frozenset[str]:
        """List those that are complete."""
        ...

    async def link(self, origin: str, name: str) -> None:
        """
        Have one under a second name, which takes no room; what had that name is gone. Each is removed alone.

        Raises:
            NotFoundError: there is no such one.
            ResourceExhaustedError: the disk is full.
            UnavailableError: it could not be done.
        """
        ...

    async def remove(self, name: str) -> None:
        """
        Remove one; a no-op for what is not there.

        Raises:
            UnavailableError: it would not go.
        """
        ...

    async def remove_all(self, sandbox_id: SandboxId) -> None:
        """Remove those of a sandbox, half-written ones too; errors as for ``remove``."""
        ...

    async def keep_only(self, names: frozenset[str]) -> None:
        """
        Remove all others, half-written ones too; errors as for ``remove``.

        For a start: nobody writes, and the first checkpoint may be written after it.
        """
        ...
