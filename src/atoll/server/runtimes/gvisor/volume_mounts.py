"""
The one directory through which each sandbox sees its volumes.

    <mounts>/all/                      a mount of its own, shared: what is mounted below appears in copies
    <mounts>/all/<sandbox id>/<name>/  a volume, mounted whenever it is wanted; guestd binds it to its path
    <mounts>/shown/                    the same, read-only: guests write to volumes, and not beside them
    <mounts>/shown/<sandbox id>/       what a sandbox has at /.atoll/volumes from its start on

So a machine gets its volumes when it is claimed, and a restored one other volumes at the same places.
Nothing here removes what is in a directory: a volume that is still mounted would be emptied.
All of it blocks.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from atoll.server.domain.ids import SandboxId
from atoll.server.host import mounts


class VolumeMounts:
    """Those of one home."""

    def __init__(self, directory: Path) -> None:
        """
        Args:
            directory: for root only; made by ``open``.
        """
        self._directory = directory
        self._all = directory / "all"
        self._shown = directory / "shown"

    def open(self) -> None:
        """
        Get ready; again is the same.

        Raises:
            OSError: the kernel refuses.
        """
        for path in (self._directory, self._all, self._shown):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mounts.ensure_shared(self._all)
        mounts.ensure_read_only(self._all, self._shown)

    def make(self, sandbox_id: SandboxId) -> Path:
        """
        Make a sandbox's directory, and return what the sandbox is to see of it; again is the same.

        Raises:
            OSError: it cannot be made.
        """
        # Users of the sandbox look through it, at volumes that have owners of their own.
        (self._all / sandbox_id).mkdir(mode=0o755, exist_ok=True)
        return self._shown / sandbox_id

    def add(self, sandbox_id: SandboxId, volumes: Iterable[tuple[Path, str]]) -> None:
        """
        Mount volumes, unless they are mounted.

        Args:
            sandbox_id: whose; its directory is made.
            volumes: where each is on this host, and its name in the directory.

        Raises:
            OSError: the kernel refuses.
        """
        for source, name in volumes:
            place = self._all / sandbox_id / name
            place.mkdir(mode=0o755, exist_ok=True)
            if not mounts.is_mounted(place):
                mounts.bind(source, place)

    def remove(self, sandbox_id: SandboxId) -> None:
        """
        Take a sandbox's volumes away, and its directory; a no-op for what is not there.

        Raises:
            OSError: the kernel refuses.
        """
        path = self._all / sandbox_id
        with contextlib.suppress(FileNotFoundError):
            for place in list(path.iterdir()):
                while mounts.is_mounted(place):
                    mounts.unmount(place)
                place.rmdir()
            path.rmdir()

    def names(self) -> set[str]:
        """List the sandboxes that have a directory."""
        try:
            return {entry.name for entry in os.scandir(self._all)}
        except FileNotFoundError:
            return set()

    def close(self) -> None:
        """
        Take the shared directory away, when no sandbox has one in it any more.

        Raises:
            OSError: one has, or the kernel refuses.
        """
        for path in (self._shown, self._all):
            while path.exists() and mounts.is_mounted(path):
                mounts.unmount(path)
        with contextlib.suppress(FileNotFoundError):
            for path in (self._shown, self._all, self._directory):
                path.rmdir()
