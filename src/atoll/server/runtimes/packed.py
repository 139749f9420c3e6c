"""
A checkpoint's directory once it is packed: an index of runs beside the manifest, images only as a cache.

    <directory>/runs                written by atoll-blobs when all runs of all images are kept
    <directory>/.runs.new           while it is written
    <directory>/.unpacking-<image>  while an image is written again

What begins with a dot was left by somebody who was killed. Everything here blocks.
"""

import os
from contextlib import suppress
from pathlib import Path

from atoll.server.domain.checkpoint import ImageFile
from atoll.server.domain.errors import (
    AtollError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.host.blobs import BlobsError
from atoll.server.runtimes import images

INDEX = "runs"
_LEFT = (".runs.new", ".unpacking-*")


def is_packed(directory: Path) -> bool:
    """Say whether all of a checkpoint's images can be written again."""
    return (directory / INDEX).exists()


def lacking(directory: Path) -> tuple[str, ...]:
    """Name the images that are not there as they were written; none, if nobody knows what they are."""
    try:
        checkpoint = images.read_manifest(directory)
    except AtollError:
        # Whoever restores it says what is wrong.
        return ()
    return tuple(file.name for file in checkpoint.files if not _is_whole(directory / file.name, file.size))


def raw_bytes(directory: Path) -> int:
    """Return what the raw copies of a packed checkpoint take."""
    if not is_packed(directory):
        return 0
    return sum(_size(directory / file.name) for file in _files(directory))


def used_at(directory: Path) -> float:
    """Return when a packed checkpoint was packed or unpacked last, in seconds."""
    try:
        return (directory / INDEX).stat().st_mtime
    except OSError:
        return 0.0


def mark_used(directory: Path) -> None:
    """Write down that a packed checkpoint is used now; a no-op for others."""
    # It may go at any moment: asking first would be no help.
    with suppress(FileNotFoundError):
        os.utime(directory / INDEX)


def drop(directory: Path) -> bool:
    """
    Remove the raw copies of a packed checkpoint. False: it is not packed, or is not there any more.

    Raises:
        UnavailableError: one would not go.
    """
    files = _files(directory) if is_packed(directory) else ()
    try:
        for file in files:
            (directory / file.name).unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError("A raw copy cannot be removed", details=str(error)) from error
    return bool(files)


def leftovers(directory: Path) -> list[Path]:
    """List what those who were killed left."""
    return [path for pattern in _LEFT for path in directory.glob(pattern)]


def translate(error: BlobsError, name: str) -> AtollError:
    """Say in words of the one tree what went wrong with a checkpoint."""
    match error.kind:
        case "damaged" | "missing":
            return FailedPreconditionError(
                f"Checkpoint '{name}' is damaged", details=str(error), resolution="restore an older one"
            )
        case "gone":
            return NotFoundError("There is no such checkpoint", details=str(error))
        case "full":
            return ResourceExhaustedError(
                "The host's disk is full",
                details=str(error),
                resolution="remove what is not needed, or see storage.reserve_bytes",
                reason=Reason.DISK_FULL,
            )
        case "timeout":
            return DeadlineExceededError(
                f"Checkpoint '{name}' took too long",
                details=str(error),
                resolution="see unpack_bytes_a_second and pack_bytes_a_second in the settings of storage",
            )
        case "denied":
            return UnavailableError(
                "The store of checkpoints lets nobody in",
                details=str(error),
                resolution="see the settings of storage: s3_bucket, s3_access_key, s3_secret_key",
            )
        case _:
            return UnavailableError("The store of checkpoints does not answer", details=str(error))


def _files(directory: Path) -> tuple[ImageFile, ...]:
    try:
        return images.read_manifest(directory).files
    except AtollError:
        # Damaged, or removed right now: nobody knows what may go.
        return ()


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0
