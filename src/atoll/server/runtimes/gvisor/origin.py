"""
What checkpoints of this home's runsc are made of, and which of them can be restored here.

Facts that do not change while the server runs are read once.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.domain.machine import MachineSpec
from atoll.server.host.runsc import Runsc
from atoll.server.host.threads import finish_in_thread, stop_in_thread
from atoll.server.runtimes import images
from atoll.server.runtimes.gvisor.programs import Programs
from atoll.server.runtimes.sums import Sums

NAME = "gvisor"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a checkpoint belongs to."""

    runtime_version: str
    cpu_features: tuple[str, ...]
    guestd: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A checkpoint that can be restored: where it is, what, and by which runsc, of which version."""

    path: Path
    checkpoint: Checkpoint
    runsc: Path
    runsc_version: str


class Origins:
    """Reads checkpoints, and says which can be restored."""

    def __init__(self, *, runsc: Runsc, programs: Programs, timeout_s: float) -> None:
        self.guestds = programs.guestds
        self._programs = programs
        self._runsc = runsc
        self._timeout_s = timeout_s
        self._facts: Facts | None = None
        self._sums = Sums()
        self._turn = asyncio.Lock()

    async def facts(self) -> Facts:
        """
        Say what is here.

        Raises:
            RunscError: runsc does not run.
            OSError: guestd cannot be kept.
        """
        async with self._turn:
            if self._facts is None:
                self._facts = Facts(
                    runtime_version=await self._programs.today(),
                    cpu_features=await self._runsc.cpu_features(timeout_s=self._timeout_s),
                    guestd=await finish_in_thread(self.guestds.today),
                )
            return self._facts

    async def read(self, path: Path, spec: MachineSpec) -> Origin:
        """
        Read a checkpoint that fits to this host and to what is wanted.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: it is damaged, or does not fit.
        """
        checkpoint = await finish_in_thread(images.read, path)
        if reason := _unfit(checkpoint, await self.facts(), spec):
            raise FailedPreconditionError(
                f"Checkpoint '{path.name}' {reason}",
                details=str(path),
                resolution="restore it where it was made, or only its files",
            )
        # What holds files only has a format of its own, with a number, which newer versions go on reading.
        runsc, version = self._runsc.program, (await self.facts()).runtime_version
        if checkpoint.kind is CheckpointKind.MEMORY:
            self.guestds.find(checkpoint.guestd)
            runsc, version = await self._runsc_of(path, checkpoint), checkpoint.runtime_version
        await self.verify(path, checkpoint, small=True)
        return Origin(path=path, checkpoint=checkpoint, runsc=runsc, runsc_version=version)

    async def verify(self, path: Path, checkpoint: Checkpoint, *, small: bool) -> None:
        """Compare contents with their checksums, for which see ``images.verify``, unless it was just done."""
        await finish_in_thread(images.verify, path, checkpoint, small=small, summed=self._sums.of)

    async def seal(self, path: Path) -> Checkpoint:
        """Compute the checksums that are missing, see ``images.seal``; who restores it soon has them."""
        return await stop_in_thread(partial(images.seal, path, summed=self._sums.of))

    async def _runsc_of(self, path: Path, checkpoint: Checkpoint) -> Path:
        version = checkpoint.runtime_version
        try:
            return await self._programs.find(version)
        except FailedPreconditionError as error:
            raise FailedPreconditionError(
                f"Checkpoint '{path.name}' belongs to runsc {version}, which is not on this machine",
                details=f"{path}: {error.details}",
                resolution=error.resolution,
            ) from error


def _unfit(checkpoint: Checkpoint, here: Facts, spec: MachineSpec) -> str | None:
    missing = sorted(set(checkpoint.cpu_features) - set(here.cpu_features))
    if checkpoint.kind is CheckpointKind.FILES:
        # No program is in it.
        missing = []
    differences = (
        ("was made by the runtime", checkpoint.runtime, NAME),
        ("needs processor features that are missing here:", ", ".join(missing), ""),
        ("belongs to template", checkpoint.template_id, spec.template_id),
        ("needs a root disk of so many bytes:", checkpoint.disk_bytes, spec.limits.disk_bytes),
        (
            "has volumes at",
            ", ".join(sorted({*checkpoint.volume_paths} - {mount.path for mount in spec.volumes})),
            "",
        ),
    )
    for what, there, wanted in differences:
        if there != wanted:
            return f"{what} {there}" + (f", not {wanted}" if wanted else "")
    return None
