"""
Ends a server from outside.

``stop`` ends the server only: sandboxes and edge live on, and the next server adopts them.
``park`` writes down what is persistent, before the machine stops; all other sandboxes live on until then.
``take_down`` ends everything of a home, and leaves files only.
"""

import contextlib
import dataclasses
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import structlog
from typing_extensions import override

from atoll.server.control.service import Control
from atoll.server.control.upkeep.parking import Parked
from atoll.server.control.warm.pool import PoolLimits
from atoll.server.domain.errors import InternalError, ResourceExhaustedError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.host.pidfd import Pidfd
from atoll.server.main.controlling import make_control, make_telling
from atoll.server.main.parts import HostFactory, HostParts, Purpose
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.settings import Settings
from atoll.server.settings.home import Home
from atoll.server.stores.database import Database
from atoll.server.stores.sandboxes import SqliteSandboxes
from atoll.server.stores.snapshots import SqliteSnapshots

log = structlog.get_logger(__name__)

# A stopping server waits for requests, then for creates and kills; a little more for the rest.
EXTRA_PATIENCE_S = 10.0


async def stop(home: Home, settings: Settings) -> bool:
    """
    End the server of a home, by force if it does not end when asked; False: there was none.

    Raises:
        UnavailableError: it outlives SIGKILL.
    """
    pid = home.server_pid()
    if pid is None:
        return False
    try:
        held = Pidfd.open(pid)
    except ProcessLookupError:
        return False
    with contextlib.closing(held):
        # Between the two the process may have ended, and its number be another's.
        if home.server_pid() != pid:
            return False
        patience = settings.server.shutdown_timeout + settings.sandboxes.close_timeout
        try:
            await held.terminate(patience_s=patience.total_seconds() + EXTRA_PATIENCE_S)
        except TimeoutError as error:
            raise UnavailableError(f"The server, process {pid}, outlives SIGKILL") from error
    return True


async def park(home: Home, settings: Settings, host: HostFactory) -> Parked:
    """
    Stop the server, end the edge, and write down what is persistent, for the next start to resume.

    All other sandboxes run on. May be repeated, and cut off at any moment. What is left undone comes back as
    after a fall of the machine.

    Raises:
        UnavailableError: not all was written down in ``sandboxes.park_timeout``; the rest runs on.
    """
    await stop(home, settings)
    with home.locked():
        async with (
            host(home, settings, Purpose.TAKE_DOWN) as parts,
            Database(home.database) as database,
            _control(home, settings, parts, database) as control,
        ):
            parked = await control.park()
    if left := parked.left:
        raise UnavailableError(
            f"{len(left)} of {len(left) + len(parked.kept)} persistent sandboxes were not written down",
            details="\n".join(f"{sandbox_id}: {error}" for sandbox_id, error in left.items()),
            resolution="They run on as long as this machine does. `atoll park` tries again.",
        )
    return parked


async def take_down(home: Home, settings: Settings, host: HostFactory, *, force: bool = False) -> None:
    """
    Stop the server, kill every sandbox, end the edge, and remove all of this home that is not a file.

    Persistent sandboxes are written down instead. May be repeated, and cut off at any moment; does nothing
    where nothing is.

    Args:
        home: whose.
        settings: of everything.
        host: makes the parts that touch the machine.
        force: whether persistent sandboxes end, too, that cannot be written down.

    Raises:
        FailedPreconditionError: without force: there are such, and no sandbox was ended.
        UnavailableError: something would not go; calling again may help.
    """
    await stop(home, settings)
    with home.locked():
        async with host(home, settings, Purpose.TAKE_DOWN) as parts:
            await _kill_all(home, settings, parts, force=force)
            await parts.take_down()
        for path in (home.api_socket, home.control_socket, home.edge_socket):
            path.unlink(missing_ok=True)


async def _kill_all(home: Home, settings: Settings, parts: HostParts, *, force: bool) -> None:
    try:
        async with Database(home.database) as database:
            await _kill_rows(home, settings, parts, database, force=force)
    except (InternalError, ResourceExhaustedError) as error:
        # A database that is damaged, or has no room on a full disk, must not keep sandboxes alive: without
        # rows, all of them are orphans. What is paused is not: the rows may name it.
        log.warning("rows not read or written; removing all sandboxes without them", error=str(error))
        kept = dataclasses.replace(parts, checkpoints=_Kept(parts.checkpoints))
        async with Database(None) as database:
            await _kill_rows(home, settings, kept, database, force=force)


class _Kept(Checkpoints):
    """Checkpoints of which nobody knows here whose they are: none is removed."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    @override
    def path(self, name: str) -> Path:
        return self._checkpoints.path(name)

    @override
    def raw(self, name: str) -> AbstractAsyncContextManager[Path]:
        return self._checkpoints.raw(name)

    @override
    def pin(self, name: str) -> None:
        self._checkpoints.pin(name)

    @override
    def unpin(self, name: str) -> None:
        self._checkpoints.unpin(name)

    @override
    async def names(self) -> frozenset[str]:
        return await self._checkpoints.names()

    @override
    async def link(self, origin: str, name: str) -> None:
        await self._checkpoints.link(origin, name)

    @override
    async def remove(self, name: str) -> None:
        return

    @override
    async def remove_all(self, sandbox_id: SandboxId) -> None:
        return

    @override
    async def keep_only(self, names: frozenset[str]) -> None:
        return


async def _kill_rows(
    home: Home, settings: Settings, parts: HostParts, database: Database, *, force: bool
) -> None:
    async with _control(home, settings, parts, database) as control:
        await control.kill_all("the home was taken down", force=force)


def _control(home: Home, settings: Settings, parts: HostParts, database: Database) -> Control:
    telling = make_telling(settings)
    return make_control(
        home,
        # Nothing new is made to wait.
        replace(settings, pool=PoolLimits(memory_bytes=0)),
        database,
        parts,
        store=SqliteSandboxes(database, telling),
        snapshots=SqliteSnapshots(database, telling),
        # It would be stopped at once, and would have been for nothing.
        revives=False,
    )
