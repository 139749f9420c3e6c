"""
Starts one machine, step by step, or restores it.

What each step leaves, ``removing.py`` finds by the sandbox's id: directory, slot, control group, processes.
So nothing here cleans up; a start that fails or is cancelled at any point is removed by ``destroy``.
"""

import asyncio
import errno
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    AlreadyExistsError,
    AtollError,
    DeadlineExceededError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import MachineSpec
from atoll.server.domain.volume import VolumeMount
from atoll.server.host.cgroup_base import Cgroup, CgroupError
from atoll.server.host.cgroup_moves import QuickMoves
from atoll.server.host.runsc import Runsc, RunscError, RunscTimeoutError
from atoll.server.host.threads import both, finish_in_thread
from atoll.server.ports.slots import Slots
from atoll.server.ports.templates import Templates
from atoll.server.ports.volumes import VolumeFiles
from atoll.server.runtimes.gvisor.beginning import Beginner
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.origin import Origin, Origins
from atoll.server.runtimes.gvisor.places import Directory, Places
from atoll.server.runtimes.gvisor.record import Record, boot_id
from atoll.server.runtimes.gvisor.running import Running, hold
from atoll.server.runtimes.gvisor.serving import serves
from atoll.server.runtimes.gvisor.spec import BundleSpec, bundle, shm_bytes
from atoll.server.runtimes.gvisor.volume_mounts import VolumeMounts

log = structlog.get_logger(__name__)

_FULL = "no space left on device"
# A machine that boots writes some kilobytes of its own beside what its programs write.
_LEAST_ROOM = 1024 * 1024


class Launcher:
    """Starts machines."""

    def __init__(
        self,
        *,
        places: Places,
        runsc: Runsc,
        templates: Templates,
        slots: Slots,
        volumes: VolumeFiles,
        mounts: VolumeMounts,
        origins: Origins,
        gone: Callable[[SandboxId], Awaitable[None]],
        options: GVisorOptions,
    ) -> None:
        """
        Args:
            places: of this home.
            runsc: the one of today.
            templates: where root file systems are.
            slots: network namespaces.
            volumes: where those of sandboxes are on this host.
            mounts: of volumes.
            origins: reads checkpoints.
            gone: returns when nothing is left of the machine that a sandbox had before.
            options: limits and patience.
        """
        self._places = places
        self._runsc = runsc
        self._beginner = Beginner(runsc=runsc)
        self._templates = templates
        self._slots = slots
        self._volumes = volumes
        self._mounts = mounts
        self._origins = origins
        self._gone = gone
        self._options = options
        self._quick_moves = QuickMoves()

    async def launch(
        self,
        spec: MachineSpec,
        path: Path | None = None,
        *,
        listens: bool = True,
        came: Callable[[], None] = lambda: None,
    ) -> Running:
        """
        Start a machine, or restore it; return when its guestd listens, without ``listens`` when it runs.

        For errors see ``Runtime.start`` and ``Runtime.restore``.
        """
        began = time.monotonic()
        rootfs = await self._templates.rootfs(spec.template_id)
        with translated(self._options):
            origin = await self._origins.read(path, spec) if path is not None else None
        with translated(self._options), self._short_of_room(origin):
            # First: also what it wrote on the disk takes room until then.
            await self._gone(spec.sandbox_id)
            self._check_room()
            volumes = await self._directories(spec.volumes)
            record = await self._plan(spec, origin)
            directory = self._places.directory(spec.sandbox_id)
            self._write_down(record, directory)
            cgroup = self._places.cgroup(spec.sandbox_id)
            # Until its connections are there again, whoever stands in for it would answer what comes for them
            # with a reset: its namespace's own kernel first, then gVisor's network, which has none yet.
            has_connections = origin is not None and origin.checkpoint.kind is CheckpointKind.MEMORY
            await self._slots.hush(spec.sandbox_id, has_connections)
            slot, mounted = await both(
                self._slots.acquire(spec.sandbox_id, spec.egress),
                finish_in_thread(self._prepare, spec, cgroup, volumes),
            )
            record = replace(record, address=slot.address)
            self._describe(spec, record, rootfs, slot.netns, mounted)
            prepared = time.monotonic()
            # Not earlier: the first quick move would have the making of the group wait for 10 ms.
            with self._quick_moves.wanted():
                if origin is None:
                    async with asyncio.timeout(self._options.start_timeout_s):
                        await self._beginner.boot(spec, directory, timeout_s=self._options.start_timeout_s)
                else:
                    # What is wrong with the checkpoint says more than how it failed to run.
                    await both(
                        self._origins.verify(origin.path, origin.checkpoint, small=False),
                        self._begin_again(spec, directory, origin, slot.address if listens else None, came),
                    )
            ready = time.monotonic()
            running = hold(record, directory, cgroup)
            try:
                self._set_limits(spec, cgroup)
                running.record.write(directory.path)
            except BaseException:
                running.close()
                raise
        log.info(
            "machine started" if origin is None else "machine restored",
            sandbox_id=spec.sandbox_id,
            prepare_ms=round((prepared - began) * 1e3, 1),
            run_ms=round((ready - prepared) * 1e3, 1),
            limits_ms=round((time.monotonic() - ready) * 1e3, 1),
        )
        return running

    def _check_room(self) -> None:
        free = shutil.disk_usage(self._places.sandboxes).free
        if free < self._options.least_free_disk_bytes:
            raise ResourceExhaustedError(
                "The host's disk is full",
                details=f"{free} bytes are free at {self._places.sandboxes}, and a start needs "
                f"least_free_disk_bytes = {self._options.least_free_disk_bytes}",
                resolution="remove what is not needed, or move the home to a larger disk",
                reason=Reason.DISK_FULL,
            )

    @contextmanager
    def _short_of_room(self, origin: Origin | None) -> Iterator[None]:
        """
        Say that the disk is full where a machine does not come up, and that is why.

        runsc writes what it has to say onto the same disk, so that it may be lost.
        """
        try:
            yield
        except (RunscError, UnavailableError) as error:
            needed = max(origin.checkpoint.size if origin else 0, _LEAST_ROOM)
            free = shutil.disk_usage(self._places.sandboxes).free
            if isinstance(error, RunscTimeoutError) or (free >= needed and _FULL not in str(error).lower()):
                raise
            raise ResourceExhaustedError(
                "The host's disk is full",
                details=f"{free} bytes are free at {self._places.sandboxes}, and the machine may need "
                f"{needed}; {error}",
                resolution="remove what is not needed, or move the home to a larger disk",
                reason=Reason.DISK_FULL,
            ) from error

    async def _plan(self, spec: MachineSpec, origin: Origin | None) -> Record:
        facts = await self._origins.facts()
        guestd, shm = facts.guestd, shm_bytes(spec.limits.memory_bytes, self._options)
        if origin is not None and origin.checkpoint.kind is CheckpointKind.MEMORY:
            # gVisor restores a mount as it was, or not at all.
            guestd, shm = origin.checkpoint.guestd, origin.checkpoint.shm_bytes
        return Record(
            sandbox_id=spec.sandbox_id,
            boot_id=boot_id(),
            runsc=str(origin.runsc if origin else self._places.runsc),
            runsc_version=origin.runsc_version if origin else facts.runtime_version,
            guestd=guestd,
            memory_bytes=spec.limits.memory_bytes,
            template_id=spec.template_id,
            disk_bytes=spec.limits.disk_bytes,
            shm_bytes=shm,
            volume_paths=tuple(sorted(mount.path for mount in spec.volumes)),
        )

    def _write_down(self, record: Record, directory: Directory) -> None:
        try:
            directory.path.mkdir(mode=0o700)
        except FileExistsError as error:
            raise AlreadyExistsError(
                "The machine is there already", details=f"{directory.path} exists"
            ) from error
        record.write(directory.path)
        directory.overlay.mkdir(mode=0o700)

    async def _begin_again(
        self,
        spec: MachineSpec,
        directory: Directory,
        origin: Origin,
        address: str | None,
        came: Callable[[], None],
    ) -> None:
        patience = self._options.start_timeout_s + origin.checkpoint.size / self._options.save_bytes_a_second
        # Memory is read by the one that wrote it only.
        beginner = Beginner(runsc=self._runsc.of(origin.runsc))
        async with asyncio.timeout(patience):
            if origin.checkpoint.kind is CheckpointKind.FILES:
                await beginner.boot(spec, directory, image=origin.path, timeout_s=patience)
            else:
                await beginner.restore(spec, directory, image=origin.path, timeout_s=patience)
                await self._slots.hush(spec.sandbox_id, False)
                if address is not None:
                    came()
                    cgroup = self._places.cgroup(spec.sandbox_id)
                    await serves(address, is_there=lambda: bool(cgroup.some_pids()))

    async def attach(self, running: Running, mounts: Sequence[VolumeMount]) -> Running:
        """Give a machine that runs volumes that it did not have; for errors see ``Runtime.attach``."""
        sandbox_id = running.record.sandbox_id
        with translated(self._options):
            volumes = await self._directories(mounts)
            paths = {*running.record.volume_paths, *(mount.path for mount in mounts)}
            record = replace(running.record, volume_paths=tuple(sorted(paths)))
            # First the record: what shares volumes stands still while it is written down.
            await finish_in_thread(record.write, running.directory.path)
            await finish_in_thread(self._mounts.add, sandbox_id, volumes)
        return replace(running, record=record)

    async def _directories(self, mounts: Sequence[VolumeMount]) -> list[tuple[Path, str]]:
        return [(await self._volumes.directory(mount.volume_id), mount.place) for mount in mounts]

    def _prepare(self, spec: MachineSpec, cgroup: Cgroup, volumes: Sequence[tuple[Path, str]]) -> Path:
        self._make_cgroup(spec, cgroup)
        path = self._mounts.make(spec.sandbox_id)
        self._mounts.add(spec.sandbox_id, volumes)
        return path

    def _make_cgroup(self, spec: MachineSpec, cgroup: Cgroup) -> None:
        options = self._options
        cgroup.create(
            # What stands here while runsc starts is what the sandbox shows as its memory.
            memory_bytes=spec.limits.memory_bytes,
            processes=spec.limits.processes * options.outer_processes_factor + options.outer_processes_base,
        )

    def _describe(
        self,
        spec: MachineSpec,
        record: Record,
        rootfs: Path,
        netns: str,
        volumes: Path,
    ) -> None:
        described = bundle(
            BundleSpec(
                rootfs=rootfs,
                guestd=self._origins.guestds.find(record.guestd),
                hostname=spec.hostname,
                netns=netns,
                cgroup=self._places.cgroup(spec.sandbox_id).path,
                shm_bytes=record.shm_bytes,
                volumes=volumes,
            ),
            self._options,
        )
        self._places.directory(spec.sandbox_id).config.write_text(json.dumps(described))

    def _set_limits(self, spec: MachineSpec, cgroup: Cgroup) -> None:
        cgroup.set_memory_wall(spec.limits.memory_bytes + self._options.memory_reserve_bytes)
        # Last: a start under a small quota takes twice as long.
        cgroup.set_cpus(spec.limits.cpus)


@contextmanager
def translated(options: GVisorOptions) -> Iterator[None]:
    """Turn what the host says into errors of the one tree."""
    try:
        yield
    except AtollError:
        raise
    except (TimeoutError, RunscTimeoutError) as error:
        raise DeadlineExceededError(
            "The machine did not come up in time",
            details=f"start_timeout_s = {options.start_timeout_s}; {error}",
            resolution="the host may be overloaded: fewer starts at once, or a longer start_timeout_s",
        ) from error
    except (RunscError, CgroupError) as error:
        raise UnavailableError("The machine did not come up", details=str(error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhaustedError(
                "The host's disk is full", details=str(error), reason=Reason.DISK_FULL
            ) from error
        raise UnavailableError("The machine did not come up", details=str(error)) from error
