"""Checkpoints on this host's disk."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from typing_extensions import override

from atoll.server.domain.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.runtimes.images import HALF, synced

# While a second name is made. Not HALF: files in there may be cut to nothing, and these are another's, too.
_LINKING = ".link-"


class CheckpointFiles(Checkpoints):
    """Those of one home."""

    def __init__(self, directory: Path) -> None:
        """
        Args:
            directory: for root only; made by ``keep_only``.
        """
        self._directory = directory

    @override
    def path(self, name: str) -> Path:
        return self._directory / name

    @override
    async def names(self) -> frozenset[str]:
        return await finish_in_thread(self._names)

    @override
    async def link(self, origin: str, name: str) -> None:
        await finish_in_thread(self._link, self.path(origin), name)

    @override
    async def remove(self, name: str) -> None:
        await finish_in_thread(self._remove, lambda one: one == name)

    @override
    async def remove_all(self, sandbox_id: SandboxId) -> None:
        await finish_in_thread(self._remove, lambda one: _bare(one).startswith(f"{sandbox_id}-"))

    @override
    async def keep_only(self, names: frozenset[str]) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await finish_in_thread(self._remove, lambda one: one not in names)

    def _names(self) -> frozenset[str]:
        return frozenset(path.name for path in self._paths() if not path.name.startswith("."))

    def _paths(self) -> list[Path]:
        return list(self._directory.iterdir()) if self._directory.exists() else []

    def _link(self, origin: Path, name: str) -> None:
        self._remove(lambda one: one in (name, _LINKING + name))
        half = self.path(_LINKING + name)
        try:
            half.mkdir(mode=0o700)
            for file in origin.iterdir():
                # One that is renamed meanwhile is the same under its new name.
                if not file.name.startswith("."):
                    os.link(file, half / file.name)
            synced(half)
            half.rename(self.path(name))
            synced(self._directory)
        except FileNotFoundError as error:
            self._remove(lambda one: one == _LINKING + name)
            raise NotFoundError("There is no such checkpoint", details=str(origin)) from error
        except OSError as error:
            self._remove(lambda one: one == _LINKING + name)
            kind = ResourceExhaustedError if error.errno == errno.ENOSPC else UnavailableError
            raise kind("A checkpoint cannot be kept twice", details=str(error)) from error

    def _remove(self, which: Callable[[str], bool]) -> None:
        try:
            for path in self._paths():
                if which(path.name):
                    # First the name: a half-removed one is never taken for a checkpoint.
                    going = path.with_name(HALF + _bare(path.name))
                    shutil.rmtree(path.replace(going) if going != path else path)
        except OSError as error:
            raise UnavailableError("A checkpoint cannot be removed", details=str(error)) from error


def _bare(name: str) -> str:
    return name.removeprefix(HALF).removeprefix(_LINKING)
