"""The port to where checkpoints are kept."""

from contextlib import AbstractAsyncContextManager
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

    def raw(self, name: str) -> AbstractAsyncContextManager[Path]:
        """
        Have one as the runtime wrote it, for as long as the block takes: unpacked, if it is packed.

        What is not there, or has no sound manifest, the runtime refuses by name.

        Raises:
            FailedPreconditionError: what it was packed into is damaged or missing; says what.
            ResourceExhaustedError: there is no room to unpack it.
            UnavailableError, DeadlineExceededError: it cannot be unpacked now.
        """
        ...

    def pin(self, name: str) -> None:
        """
        Have one stay as the runtime writes it, and named though no row does, until ``unpin``.

        Also before it is written. For as long as this object lives: the next server pins it again, before
        ``keep_only``. A no-op for what is pinned.
        """
        ...

    def unpin(self, name: str) -> None:
        """Undo ``pin``."""
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
        Remove all others that are not pinned, half-written ones too; errors as for ``remove``.

        For a start: nobody writes, and the first checkpoint may be written after it.
        """
        ...


class Packing(Protocol):
    """Keeps checkpoints small, behind everybody else. Its calls are made one at a time."""

    async def pack_next(self) -> bool:
        """
        Pack the oldest checkpoint whose time has come; False: none is left.

        Raises:
            AtollError: it is not packed, and is as it was.
        """
        ...

    async def drop_raw(self) -> None:
        """
        Remove the raw copies that are more than may be: those not used for the longest time.

        Raises:
            UnavailableError: one would not go.
        """
        ...

    async def sweep(self) -> None:
        """
        Remove runs that no checkpoint names, if any checkpoint went since the last time.

        Raises:
            AtollError: they stay until the next time.
        """
        ...
