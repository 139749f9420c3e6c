"""
The folder of built templates: which directory is what, who may touch it when.

    <template id>/          complete: template.json and rootfs/
    .building-<random>/     a build at work, or what an interrupted one left
    .locks/<template id>    held by who builds it
    .locks/working          held for a moment, while a working directory is made or cleared

A working directory is locked by its builder; one that nobody locks is a dead builder's.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import structlog

from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.ids import TemplateId

log = structlog.get_logger(__name__)

_BUILDING = ".building-"
_LOCKS = ".locks"
# How often a waiting builder asks whether the other one is done.
_LOOK_AGAIN_S = 0.1
# Programs of a killed builder may be dying while its folder is removed.
_REMOVE_ATTEMPTS = 3


class Folders:
    """One folder of templates, which several processes may share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, template_id: TemplateId) -> Path:
        """Return where a template is, if it is built."""
        return self.root / template_id

    def built(self) -> list[Path]:
        """List the directories that have a template's name, sorted."""
        try:
            return sorted(
                path for path in self.root.iterdir() if not path.name.startswith(".") and path.is_dir()
            )
        except FileNotFoundError:
            return []

    @contextlib.asynccontextmanager
    async def locked(self, template_id: TemplateId, *, timeout_s: float) -> AsyncIterator[None]:
        """
        Hold the right to build or remove one template; wait for whoever holds it.

        Raises:
            UnavailableError: somebody else held it for the whole time.
        """
        fd = self._open_lock(template_id)
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    # flock tells nobody when it is free, and waiting in a thread could not be cancelled.
                    while not _try_lock(fd):  # noqa: ASYNC110
                        await asyncio.sleep(_LOOK_AGAIN_S)
            except TimeoutError:
                raise UnavailableError(
                    f"template '{template_id}' is being built by another process",
                    details=f"{self.root / _LOCKS / template_id} was locked for {timeout_s:.0f} s",
                ) from None
            yield
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[Path]:
        """Make a directory to build in; whatever is there at the end is removed."""
        path, fd = await asyncio.to_thread(self._make_working)
        try:
            yield path
        finally:
            # The lock goes last: until then nobody else clears the directory.
            removing = asyncio.ensure_future(asyncio.to_thread(_remove, path))
            try:
                await asyncio.shield(removing)
            finally:
                removing.add_done_callback(lambda _: os.close(fd))

    def publish(self, work: Path, template_id: TemplateId) -> None:
        """Give what was built its name, all at once and for good."""
        work.rename(self.path(template_id))
        _sync_directory(self.root)

    def remove(self, template_id: TemplateId) -> None:
        """
        Remove a template that is locked; a half-removed one is never taken for one.

        Raises:
            OSError: it is not removed.
        """
        _remove(self.path(template_id).rename(self.root / f"{_BUILDING}{secrets.token_hex(8)}"))

    def clear(self) -> list[str]:
        """Remove what dead builders left, and return the names of it."""
        if not self.root.is_dir():
            return []
        with self._making():
            removed = [
                path.name
                for path in self.root.iterdir()
                if path.name.startswith(_BUILDING) and _is_abandoned(path)
            ]
        # Nobody uses these names again, so nothing has to be locked.
        for name in removed:
            log.info("what an interrupted build left is removed", path=name)
            _remove(self.root / name)
        return removed

    def _make_working(self) -> tuple[Path, int]:
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._making():
            path = self.root / f"{_BUILDING}{secrets.token_hex(8)}"
            # Not for others on this host: there are programs inside that run as root for anybody.
            path.mkdir(mode=0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        return path, fd

    @contextlib.contextmanager
    def _making(self) -> Iterator[None]:
        fd = self._open_lock("working")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open_lock(self, name: str) -> int:
        directory = self.root / _LOCKS
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        return os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_abandoned(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _try_lock(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    for attempt in range(_REMOVE_ATTEMPTS):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if not path.exists():
                return
        except OSError as exc:
            if attempt == _REMOVE_ATTEMPTS - 1:
                # The next start tries again.
                log.warning("cannot be removed", path=str(path), error=str(exc))
        else:
            return


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
