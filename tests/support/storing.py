"""Checkpoints as a runtime writes them, and the real program that packs them."""

import random
import sys
from datetime import timedelta
from pathlib import Path

from atoll.server.control.storage_limits import StorageLimits
from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.ids import TemplateId
from atoll.server.host.blobs import BlobsProgram, BlobStore, S3Bucket
from atoll.server.runtimes import images
from atoll.server.runtimes.kept import CheckpointFiles
from atoll.server.runtimes.packing import Packer

PROGRAM = Path(sys.executable).parent / "atoll-blobs"
PAGE = 4096
LIMITS = StorageLimits(pack_after=timedelta(0), raw_bytes=0, reserve_bytes=0)


class Kept:
    """One home's checkpoints and their store; made anew, it is what the next server finds."""

    def __init__(
        self, home: Path, limits: StorageLimits = LIMITS, *, s3: S3Bucket | None = None, reserve: int = 0
    ) -> None:
        self.home = home
        self.blobs = BlobsProgram(PROGRAM, BlobStore(directory=home / "blobs", reserve_bytes=reserve, s3=s3))
        self.files = CheckpointFiles(home / "checkpoints", blobs=self.blobs, limits=limits)
        self.files.directory.mkdir(parents=True, exist_ok=True)
        self.packer = Packer(self.files, self.blobs, limits=limits, clock=SystemClock())

    def write(self, name: str, **content: bytes) -> None:
        """Write a checkpoint of files, ``pages`` becoming ``pages.img``."""
        half = images.Half(self.files.path(name))
        half.make()
        for file, data in content.items():
            (half.path / f"{file}.img").write_bytes(data)
        half.publish(
            Checkpoint(
                kind=CheckpointKind.MEMORY,
                runtime="fake",
                runtime_version="1",
                cpu_features=(),
                guestd="",
                template_id=TemplateId("base"),
                disk_bytes=0,
                memory_bytes=0,
                shm_bytes=0,
                address="10.0.0.1",
                volume_paths=(),
            )
        )

    async def read(self, name: str) -> dict[str, bytes]:
        """Restore one, as a runtime does: look at all of it, then use it."""
        async with self.files.raw(name) as path:
            checkpoint = images.read(path)
            for small in (True, False):
                images.verify(path, checkpoint, small=small)
            return {
                file.name.removesuffix(".img"): (path / file.name).read_bytes() for file in checkpoint.files
            }

    def raw(self, name: str) -> list[str]:
        """List the images that are there as they were written."""
        return sorted(path.name for path in self.files.path(name).glob("*.img"))

    def runs(self) -> list[Path]:
        """List the runs that are kept on this disk."""
        return sorted((self.home / "blobs").glob("??/*"))


def noise(seed: int, pages: int) -> bytes:
    """Make pages that nothing else has."""
    return random.Random(seed).randbytes(pages * PAGE)
