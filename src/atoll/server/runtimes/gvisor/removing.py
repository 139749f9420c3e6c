"""
Ends a machine and removes what is left of it, found by the sandbox's id alone.

Works for a running machine, a hung one, one that ended, and any part of a start.
No sandbox is asked: its processes are killed through descriptors and control groups, and then all is files.
"""

import asyncio
import shutil
from pathlib import Path

import structlog

from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.host import cgroup
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.host.pidfd import Pidfd
from atoll.server.host.runsc import Runsc
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.slots import Slots
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.places import Directory, Places
from atoll.server.runtimes.gvisor.record import Record, directories
from atoll.server.runtimes.gvisor.volume_mounts import VolumeMounts

log = structlog.get_logger(__name__)


class Remover:
    """Removes machines."""

    def __init__(
        self,
        *,
        places: Places,
        runsc: Runsc,
        slots: Slots,
        mounts: VolumeMounts,
        options: GVisorOptions,
    ) -> None:
        self._places = places
        self._mounts = mounts
        self._runsc = runsc
        self._slots = slots
        self._options = options

    async def remove(self, sandbox_id: SandboxId) -> None:
        """
        End all processes, then remove all else; the slot is last, since nobody may get it before.

        Raises:
            UnavailableError: something would not go.
        """
        await self.remove_but_slot(sandbox_id)
        await self._slots.release(sandbox_id)

    async def remove_but_slot(self, sandbox_id: SandboxId) -> None:
        """End all processes, then remove all else but the slot; errors as for ``remove``."""
        directory = self._places.directory(sandbox_id).path
        group = self._places.cgroup(sandbox_id)
        mark(self._places.directory(sandbox_id))
        try:
            if await asyncio.to_thread(self._may_be_starting, directory):
                # A server may have died between having them stand still and killing them.
                group.kill_once()
                await self._end_launchers(sandbox_id)
            await group.kill(timeout_s=self._options.kill_timeout_s)
            await group.remove(timeout_s=self._options.remove_timeout_s)
            await finish_in_thread(self._remove_files, sandbox_id, directory)
        except (CgroupError, OSError, TimeoutError) as error:
            raise UnavailableError(
                "The machine cannot be removed",
                details=f"{sandbox_id}: {type(error).__name__}: {error}",
                resolution="it will be tried again; processes in state D (see ps) wait for the host's disk",
            ) from error

    async def remains(self) -> set[str]:
        """List the names of all of which anything is on this host; the caller checks their form."""
        on_disk = {path.name for path in await asyncio.to_thread(directories, self._places.sandboxes)}
        in_kernel = cgroup.children(self._places.cgroup_parent)
        mounted = await asyncio.to_thread(self._mounts.names)
        return on_disk | in_kernel | mounted | self._runsc.containers() | set(await self._slots.held())

    def remove_shared(self) -> None:
        """
        Remove what all machines of the home share, when none is there any more.

        Raises:
            UnavailableError: the kernel would not let go.
        """
        try:
            self._runsc.unmount_shared()
            self._mounts.close()
        except OSError as error:
            raise UnavailableError("A mount of sandboxes cannot be removed", details=str(error)) from error
        cgroup.remove_empty(self._places.cgroup_parent)

    def _may_be_starting(self, directory: Path) -> bool:
        record = Record.read(directory)
        return directory.exists() and (record is None or record.sentry is None)

    async def _end_launchers(self, sandbox_id: SandboxId) -> None:
        # A killed server leaves a runsc that goes on starting, for the most part outside of the group.
        for pid in await asyncio.to_thread(_processes_naming, sandbox_id, self._places.runsc_state):
            try:
                held = Pidfd.open(pid)
            except ProcessLookupError:
                continue
            with held:
                if pid in _processes_naming(sandbox_id, self._places.runsc_state, (str(pid),)):
                    log.info("ending a start", sandbox_id=sandbox_id, pid=pid)
                    await held.kill(patience_s=self._options.kill_timeout_s)

    def _remove_files(self, sandbox_id: SandboxId, directory: Path) -> None:
        self._runsc.remove_state(sandbox_id)
        self._mounts.remove(sandbox_id)
        # While these are there, a next attempt knows what this was: nobody takes it for a machine that runs.
        last = ("machine.json", "leaving")
        try:
            paths = sorted(
                directory.iterdir(), key=lambda path: last.index(path.name) if path.name in last else -1
            )
        except FileNotFoundError:
            return
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        directory.rmdir()


def mark(directory: Directory) -> None:
    """
    Have a next server remove a machine, rather than take what is half killed for one that lives.

    A no-op where nothing is. What cannot be marked, since the disk fails, is to go all the same.
    """
    try:
        directory.leaving.touch()
    except FileNotFoundError:
        return
    except OSError as error:
        try:
            # The disk is full. Another name for what nobody reads any more takes no room.
            directory.config.rename(directory.leaving)
        except OSError:
            log.warning("a machine that is to go is not marked", path=str(directory.path), error=str(error))


def _processes_naming(sandbox_id: str, state: Path, among: tuple[str, ...] | None = None) -> list[int]:
    """Find the processes whose command line is runsc's with our state directory and this sandbox."""
    root = f"--root={state}".encode()
    found = []
    for name in among or tuple(path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if root in words and sandbox_id.encode() in words:
            found.append(int(name))
    return found
