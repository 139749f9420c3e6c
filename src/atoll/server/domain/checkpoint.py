"""
What is written beside the images of a checkpoint: what they are, and what they can be restored with.

An image is only worth something to the program that wrote it, on processors that have what its programs
found. So all of that is written down, and a restore elsewhere is refused by name.
"""

from dataclasses import dataclass
from enum import StrEnum

from atoll.server.domain.ids import TemplateId


class CheckpointKind(StrEnum):
    """What of a machine is in a checkpoint."""

    # Memory, processes, connections, and all that was written over the template.
    MEMORY = "memory"
    # What was written over the template; a restore boots.
    FILES = "files"


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """
    One file of a checkpoint.

    Attributes:
        name: in the checkpoint's directory.
        size: in bytes.
        sha256: of its content, hexadecimal; None until somebody computed it: see ``Runtime.seal``.
    """

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """
    One checkpoint.

    Attributes:
        kind: what is in it.
        runtime: who wrote it: "gvisor".
        runtime_version: of the program; no other version reads memory.
        cpu_features: what the processor could do; the programs in it may use any of that.
        guestd: the content of guestd's program, hexadecimal: pages of it are not in an image of memory.
        template_id: what it was written over.
        disk_bytes: the limit of the root disk, which is part of it.
        memory_bytes: the promise; another may be given at a restore.
        shm_bytes: size of /dev/shm, which is part of it.
        address: the one it had; connections go on only where it is restored with that.
        volume_paths: where volumes were inside; there are some at a restore, too.
        files: the images.
    """

    kind: CheckpointKind
    runtime: str
    runtime_version: str
    cpu_features: tuple[str, ...]
    guestd: str
    template_id: TemplateId
    disk_bytes: int
    memory_bytes: int
    shm_bytes: int
    address: str
    volume_paths: tuple[str, ...]
    files: tuple[ImageFile, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all images."""
        return sum(file.size for file in self.files)
