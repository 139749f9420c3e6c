"""Checkpoints of fake machines: the same directories as real ones, with a few bytes in them."""

import json
import shutil
from pathlib import Path

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.errors import FailedPreconditionError, UnavailableError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.machine import MachineSpec
from atoll.server.runtimes import images

NAME = "fake"


class Checkpoints:
    """Writes and reads them."""

    async def save(self, machine: Path, into: Path, kind: CheckpointKind) -> Checkpoint:
        """Write a machine's directory down."""
        half = images.Half(into)
        try:
            half.make()
        except FileNotFoundError as error:
            raise UnavailableError("The checkpoint has no place", details=str(into)) from error
        try:
            names = ("memory", "files") if kind is CheckpointKind.MEMORY else ("files",)
            for name in names:
                if (machine / name).exists():
                    shutil.copyfile(machine / name, half.path / name)
                else:
                    (half.path / name).touch()
            spec = json.loads((machine / "spec").read_text())
            return half.publish(
                Checkpoint(
                    kind=kind,
                    runtime=NAME,
                    runtime_version="1",
                    cpu_features=(),
                    guestd="",
                    template_id=TemplateId(spec["template_id"]),
                    disk_bytes=spec["disk_bytes"],
                    memory_bytes=spec["memory_bytes"],
                    shm_bytes=0,
                    address=(machine / "slot").read_text().strip(),
                    volume_paths=tuple(spec["volume_paths"]),
                )
            )
        except BaseException:
            half.remove()
            raise

    def read(self, origin: Path, spec: MachineSpec) -> Checkpoint:
        """
        Read one that fits.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: it is damaged, or does not fit.
        """
        checkpoint = images.read(origin)
        there = {
            "template_id": checkpoint.template_id,
            "disk_bytes": checkpoint.disk_bytes,
        }
        wanted = {name: value for name, value in json.loads(describe(spec)).items() if name in there}
        volumes = {mount.path for mount in spec.volumes}
        if checkpoint.runtime != NAME or there != wanted or not volumes.issuperset(checkpoint.volume_paths):
            raise FailedPreconditionError(
                f"Checkpoint '{origin.name}' does not fit", details=f"{there}, not {wanted}"
            )
        for small in (True, False):
            images.verify(origin, checkpoint, small=small)
        return checkpoint


def describe(spec: MachineSpec) -> str:
    """Write down what a checkpoint has to fit to."""
    return json.dumps(
        {
            "template_id": spec.template_id,
            "disk_bytes": spec.limits.disk_bytes,
            "memory_bytes": spec.limits.memory_bytes,
            "volume_paths": sorted(mount.path for mount in spec.volumes),
        }
    )
