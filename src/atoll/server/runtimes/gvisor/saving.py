"""
Writes machines down: checkpoints of memory or files, taken by runsc, published by runtimes/images.py.

runsc can end a sandbox itself once it is written, but then ends it also when the disk was full. So it is
always left running, and ended from outside when all is on the disk. What it does in between must leave no
trace: nothing that it sends leaves its slot (an acknowledgement cannot be taken back), and one that shares
volumes stands still.
"""

import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, TemplateId
from atoll.server.host.runsc import Runsc, RunscError, RunscTimeoutError
from atoll.server.host.threads import finish, finish_in_thread
from atoll.server.ports.slots import Slots
from atoll.server.runtimes import images
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.origin import NAME, Origins
from atoll.server.runtimes.gvisor.running import Running

log = structlog.get_logger(__name__)

_FULL = ("no space left on device", "disk quota exceeded")


class HungError(Exception):
    """Programs stand still, and could not be told to go on."""


class Saver:
    """Writes machines down."""

    def __init__(self, *, runsc: Runsc, slots: Slots, origins: Origins, options: GVisorOptions) -> None:
        self._runsc = runsc
        self._slots = slots
        self._origins = origins
        self._options = options

    async def save(self, running: Running, into: Path, kind: CheckpointKind) -> Checkpoint:
        """Write a machine that goes on meanwhile; for errors see ``Runtime.checkpoint``."""
        half = images.Half(into)
        self._check_room(into.parent)
        try:
            await finish_in_thread(half.make)
            described = await self._describe(running, kind)
            await self._write(running, half.path, kind)
            return await finish_in_thread(half.publish, described)
        except BaseException as error:
            await finish_in_thread(half.remove)
            if isinstance(error, RunscError | OSError | TimeoutError):
                raise _translate(error, running.record.sandbox_id) from error
            raise

    @contextlib.asynccontextmanager
    async def unheard(self, running: Running) -> AsyncIterator[None]:
        """
        Have a machine leave no trace during the block, which ends it; when the block fails, it goes on.

        Raises:
            HungError: it stands still, and cannot be told to go on.
        """
        sandbox_id = running.record.sandbox_id
        try:
            await self._slots.hush(sandbox_id, True)
            if running.record.volume_paths:
                await finish(self._pause(running))
            yield
        except BaseException:
            await finish(self._heard_again(running))
            raise

    async def go_on(self, running: Running) -> None:
        """
        Have programs go on that stand still for a checkpoint; a no-op when none does.

        Raises:
            HungError: they cannot be told.
        """
        if not running.directory.pausing.exists():
            return
        sandbox_id, timeout_s = running.record.sandbox_id, self._options.pause_timeout_s
        runsc = self._runsc_of(running)
        try:
            if json.loads(await runsc.state(sandbox_id, timeout_s=timeout_s))["status"] == "paused":
                await runsc.resume(sandbox_id, timeout_s=timeout_s)
        except (RunscError, ValueError, KeyError) as error:
            raise HungError(str(error)) from error
        running.directory.pausing.unlink(missing_ok=True)

    async def _heard_again(self, running: Running) -> None:
        try:
            await self.go_on(running)
        finally:
            await self._slots.hush(running.record.sandbox_id, False)

    async def _pause(self, running: Running) -> None:
        running.directory.pausing.touch()
        try:
            runsc = self._runsc_of(running)
            await runsc.pause(running.record.sandbox_id, timeout_s=self._options.pause_timeout_s)
        except RunscTimeoutError as error:
            # Killed half way, so that runsc does not know whether it stands still.
            raise HungError(str(error)) from error
        except RunscError as error:
            raise _translate(error, running.record.sandbox_id) from error

    async def _describe(self, running: Running, kind: CheckpointKind) -> Checkpoint:
        record = running.record
        assert record.address is not None
        if not record.guestd:
            raise FailedPreconditionError(
                f"Sandbox {record.sandbox_id} was started by a version that could not write machines down",
                resolution="start a new sandbox",
            )
        facts = await self._origins.facts()
        return Checkpoint(
            kind=kind,
            runtime=NAME,
            runtime_version=record.runsc_version,
            cpu_features=facts.cpu_features,
            guestd=record.guestd,
            template_id=TemplateId(record.template_id),
            disk_bytes=record.disk_bytes,
            memory_bytes=record.memory_bytes,
            shm_bytes=record.shm_bytes,
            address=record.address,
            volume_paths=tuple(record.volume_paths),
        )

    async def _write(self, running: Running, into: Path, kind: CheckpointKind) -> None:
        sandbox_id, options = running.record.sandbox_id, self._options
        runsc = self._runsc_of(running)
        resident, cache = await finish_in_thread(running.cgroup.memory_use)
        timeout_s = options.save_timeout_s + (resident + cache) / options.save_bytes_a_second
        if kind is CheckpointKind.MEMORY:
            await runsc.checkpoint(sandbox_id, into, timeout_s=timeout_s)
        else:
            await runsc.checkpoint_files(sandbox_id, into, timeout_s=timeout_s)

    def _runsc_of(self, running: Running) -> Runsc:
        """The one that runs it: a newer one that an update brought does not understand it."""
        return self._runsc.of(Path(running.record.runsc))

    def _check_room(self, parent: Path) -> None:
        try:
            free = shutil.disk_usage(parent).free
        except OSError as error:
            raise UnavailableError("The checkpoint has no place", details=f"{parent}: {error}") from error
        if free < self._options.least_free_disk_bytes:
            raise ResourceExhaustedError(
                "The host's disk is full",
                details=f"{free} bytes are free at {parent}, and a checkpoint needs "
                f"least_free_disk_bytes = {self._options.least_free_disk_bytes}",
                resolution="remove what is not needed, or move the home to a larger disk",
                reason=Reason.DISK_FULL,
            )


def _translate(error: Exception, sandbox_id: SandboxId) -> Exception:
    if isinstance(error, RunscTimeoutError | TimeoutError):
        return DeadlineExceededError(
            f"Sandbox {sandbox_id} was not written down in time",
            details=str(error),
            resolution="the sandbox hangs, or the disk is slow: see save_timeout_s and save_bytes_a_second",
        )
    if any(words in str(error).lower() for words in _FULL):
        return ResourceExhaustedError(
            "The host's disk is full",
            details=str(error),
            resolution="remove what is not needed; the sandbox runs on",
            reason=Reason.DISK_FULL,
        )
    return UnavailableError(f"Sandbox {sandbox_id} could not be written down", details=str(error))
