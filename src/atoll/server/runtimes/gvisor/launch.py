"""
Starts one machine, step by step.

What each step leaves, ``removing.py`` finds by the sandbox's id: directory, slot, control group, processes.
So nothing here cleans up; a start that fails or is cancelled at any point is removed by ``destroy``.
"""

import asyncio
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from atoll.server.domain.errors import (
    AlreadyExistsError,
    AtollError,
    DeadlineExceededError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.machine import MachineSpec
from atoll.server.host.cgroup_base import Cgroup, CgroupError
from atoll.server.host.cgroup_moves import QuickMoves
from atoll.server.host.pidfd import Pidfd
from atoll.server.host.runsc import RunOptions, Runsc, RunscError, RunscTimeoutError
from atoll.server.host.threads import both, finish_in_thread
from atoll.server.ports.slots import Slots
from atoll.server.ports.templates import Templates
from atoll.server.ports.volumes import VolumeFiles
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.places import Directory, Places
from atoll.server.runtimes.gvisor.record import Record, boot_id
from atoll.server.runtimes.gvisor.spec import BundleSpec, bundle

log = structlog.get_logger(__name__)

# What guestd may say of errors; a guest that is root can reach it later, so it has an end.
_STDERR_BYTES = 64 * 1024
# "ready" and a line's end; anything longer is not guestd's.
_READY = b"ready"
_MOST_READY = 64


@dataclass(frozen=True, kw_only=True)
class Running:
    """A machine that runs: what is written down, and what holds its processes."""

    record: Record
    directory: Directory
    cgroup: Cgroup
    sentry: Pidfd
    gofer: Pidfd | None

    def close(self) -> None:
        """Let go of the processes."""
        self.sentry.close()
        if self.gofer is not None:
            self.gofer.close()


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
        options: GVisorOptions,
    ) -> None:
        self._places = places
        self._runsc = runsc
        self._templates = templates
        self._slots = slots
        self._volumes = volumes
        self._options = options
        self._quick_moves = QuickMoves()

    async def launch(self, spec: MachineSpec) -> Running:
        """Start a machine; return when its guestd listens. For errors see ``Runtime.start``."""
        rootfs = await self._templates.rootfs(spec.template_id)
        began = time.monotonic()
        with _translated(self._options):
            self._check_room()
            volumes = [(await self._volumes.directory(mount.volume_id), mount.path) for mount in spec.volumes]
            directory = self._places.directory(spec.sandbox_id)
            record = self._write_down(spec, directory)
            cgroup = self._places.cgroup(spec.sandbox_id)
            slot, _ = await both(
                self._slots.acquire(spec.sandbox_id, spec.egress),
                finish_in_thread(self._make_cgroup, spec, cgroup),
            )
            record = replace(record, address=slot.address)
            self._describe(spec, directory, cgroup, rootfs, slot.netns, tuple(volumes))
            prepared = time.monotonic()
            # Not earlier: the first quick move would have the making of the group wait for 10 ms.
            with self._quick_moves.wanted():
                async with asyncio.timeout(self._options.start_timeout_s):
                    await self._run(spec, directory)
            ready = time.monotonic()
            running = self._hold(record, directory, cgroup)
            try:
                self._set_limits(spec, cgroup)
                running.record.write(directory.path)
            except BaseException:
                running.close()
                raise
        log.info(
            "machine started",
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
            )

    def _write_down(self, spec: MachineSpec, directory: Directory) -> Record:
        try:
            directory.path.mkdir(mode=0o700)
        except FileExistsError as error:
            raise AlreadyExistsError(
                "The machine is there already", details=f"{directory.path} exists"
            ) from error
        record = Record(
            sandbox_id=spec.sandbox_id,
            boot_id=boot_id(),
            runsc=str(self._places.runsc),
            memory_bytes=spec.limits.memory_bytes,
        )
        record.write(directory.path)
        directory.overlay.mkdir(mode=0o700)
        return record

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
        directory: Directory,
        cgroup: Cgroup,
        rootfs: Path,
        netns: str,
        volumes: tuple[tuple[Path, str], ...],
    ) -> None:
        description = bundle(
            BundleSpec(
                rootfs=rootfs,
                guestd=self._places.guestd,
                hostname=spec.hostname,
                netns=netns,
                cgroup=cgroup.path,
                memory_bytes=spec.limits.memory_bytes,
                volumes=volumes,
            ),
            self._options,
        )
        directory.config.write_text(json.dumps(description))

    async def _run(self, spec: MachineSpec, directory: Directory) -> None:
        """Run runsc, and wait until guestd says on its standard output that it is ready."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stderr = _bounded_file()
        try:
            os.set_blocking(write, True)
            try:
                await self._runsc.run(
                    spec.sandbox_id,
                    RunOptions(
                        bundle=directory.path,
                        overlay_directory=directory.overlay,
                        overlay_bytes=spec.limits.disk_bytes,
                        stdout=write,
                        stderr=stderr,
                        pid_file=directory.sentry_pid,
                        final_metrics=directory.final_metrics,
                        panic_log=directory.panic_log,
                        command_log=directory.command_log,
                    ),
                    timeout_s=self._options.start_timeout_s,
                )
            finally:
                # The sandbox holds the other one: its end is the pipe's.
                os.close(write)
            if await _first_line(read) != _READY:
                raise UnavailableError("The machine did not come up", details=_last_words(stderr, directory))
        finally:
            os.close(read)
            os.close(stderr)

    def _hold(self, record: Record, directory: Directory, cgroup: Cgroup) -> Running:
        try:
            sentry = Pidfd.open(int(directory.sentry_pid.read_text()))
        except (ProcessLookupError, ValueError, OSError) as error:
            raise UnavailableError(
                "The machine ended while it started", details=f"{error}; {_text(directory.panic_log)}"
            ) from error
        gofer = None
        for pid in cgroup.pids():
            if pid != sentry.identity.pid and (gofer := _hold_gofer(pid)) is not None:
                break
        record = replace(
            record,
            sentry=sentry.identity,
            gofer=gofer.identity if gofer is not None else None,
            ready_at=_ticks_now(),
        )
        return Running(record=record, directory=directory, cgroup=cgroup, sentry=sentry, gofer=gofer)

    def _set_limits(self, spec: MachineSpec, cgroup: Cgroup) -> None:
        cgroup.set_memory_wall(spec.limits.memory_bytes + self._options.memory_reserve_bytes)
        # Last: a start under a small quota takes twice as long.
        cgroup.set_cpus(spec.limits.cpus)


def _ticks_now() -> int:
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) + 1


def _hold_gofer(pid: int) -> Pidfd | None:
    try:
        held = Pidfd.open(pid)
    except ProcessLookupError:
        return None
    try:
        # runsc names its processes so; the sentry's helpers have no command line.
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runsc-gofer\0"):
            return held
    except OSError:
        pass
    held.close()
    return None


def _bounded_file() -> int:
    """Make a file without a name that cannot grow: a guest's write beyond its end is an error there."""
    fd = os.memfd_create("guestd-stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _STDERR_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


async def _first_line(fd: int) -> bytes:
    """Read a line, or what there is before the end or the limit."""
    loop = asyncio.get_running_loop()
    line = b""
    while b"\n" not in line and len(line) < _MOST_READY:
        readable = asyncio.Event()
        loop.add_reader(fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(fd)
        chunk = os.read(fd, _MOST_READY)
        if not chunk:
            break
        line += chunk
    return line.partition(b"\n")[0].strip()


def _last_words(stderr: int, directory: Directory) -> str:
    said = os.pread(stderr, 4096, 0).rstrip(b"\0").decode(errors="replace")
    return f"guestd ended before it was ready: {said}\n{_text(directory.panic_log)}".strip()


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")[-2000:]
    except OSError:
        return ""


@contextmanager
def _translated(options: GVisorOptions) -> Iterator[None]:
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
            raise ResourceExhaustedError("The host's disk is full", details=str(error)) from error
        raise UnavailableError("The machine did not come up", details=str(error)) from error
