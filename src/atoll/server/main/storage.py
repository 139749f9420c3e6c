"""Where a home's checkpoints are kept: raw in its directory, packed there or in a bucket of S3."""

from dataclasses import dataclass
from pathlib import Path

from atoll.server.control.storage_limits import StorageLimits
from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.host.blobs import BlobsProgram, BlobStore, S3Bucket
from atoll.server.ports.collector import Collector
from atoll.server.runtimes.collecting import OldCheckpoints, OldRuns
from atoll.server.runtimes.kept import CheckpointFiles
from atoll.server.runtimes.packing import Packer
from atoll.server.settings.home import Home


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The parts that keep checkpoints."""

    checkpoints: CheckpointFiles
    packer: Packer
    collectors: tuple[Collector, ...]


def make_storage(home: Home, limits: StorageLimits, program: Path) -> Storage:
    """
    Put together what keeps a home's checkpoints.

    Args:
        home: whose.
        limits: where, and how much.
        program: atoll-blobs.

    Raises:
        InvalidArgumentError: the settings of S3 are not complete.
    """
    store = BlobStore(directory=home.blobs, reserve_bytes=limits.reserve_bytes, s3=_bucket(home, limits))
    blobs = BlobsProgram(program, store)
    checkpoints = CheckpointFiles(home.checkpoints, blobs=blobs, limits=limits)
    return Storage(
        checkpoints=checkpoints,
        packer=Packer(checkpoints, blobs, limits=limits, clock=SystemClock()),
        collectors=(
            OldCheckpoints(checkpoints),
            OldRuns(checkpoints, blobs, timeout_s=limits.sweep_timeout.total_seconds()),
        ),
    )


def _bucket(home: Home, limits: StorageLimits) -> S3Bucket | None:
    if not limits.s3_endpoint:
        return None
    for name in ("s3_bucket", "s3_access_key", "s3_secret_key"):
        if not getattr(limits, name):
            raise InvalidArgumentError(
                f"storage.{name} is empty, and storage.s3_endpoint is not",
                resolution="Say all of them, or none.",
            )
    return S3Bucket(
        endpoint=limits.s3_endpoint,
        bucket=limits.s3_bucket,
        region=limits.s3_region,
        # Two homes may share a bucket: what one sweeps is the other's business.
        prefix=f"{limits.s3_prefix.strip('/')}/{home.id}".strip("/"),
        access_key=limits.s3_access_key,
        secret_key=limits.s3_secret_key,
        roots=str(Path(limits.s3_roots).absolute()) if limits.s3_roots else "",
        timeout_s=limits.s3_timeout.total_seconds(),
    )
