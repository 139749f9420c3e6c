"""
The directory of a checkpoint: images and a manifest, there as a whole or not at all.

    <directory>/manifest.json       what domain/checkpoint.py says, and a checksum of that
    <directory>/<image>             as the runtime wrote it; not there while it is only packed: packed.py
    <its parent>/.half-<name>       while it is written; whoever is killed then leaves it

Everything here blocks.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind, ImageFile
from atoll.server.domain.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from atoll.server.domain.ids import TemplateId

MANIFEST = "manifest.json"
_FORMAT = 1
HALF = ".half-"
# A manifest has some kilobytes; what is larger is none.
_MOST_MANIFEST = 1024 * 1024
# Computed at once for files up to this size, in a few milliseconds: the state of the kernel is in them, and a
# runtime that reads a wrong one may do anything. The pages of programs wait for ``seal``.
_SUM_AT_ONCE = 8 * 1024 * 1024
_CHUNK = 1024 * 1024


class Half:
    """A checkpoint that is being written."""

    def __init__(self, directory: Path) -> None:
        """
        Args:
            directory: where it is to be; nothing is there, and its parent is.

        Raises:
            AlreadyExistsError: something is there.
        """
        self.directory = directory
        self.path = directory.with_name(HALF + directory.name)
        if directory.exists():
            raise AlreadyExistsError("The checkpoint is there already", details=str(directory))

    def make(self) -> None:
        """Make the directory that images are written into; what a killed server left there goes."""
        self.remove()
        self.path.mkdir(mode=0o700)

    def remove(self) -> None:
        """Give up; a no-op when there is nothing."""
        # A runtime may hold a file of a failed save open for long: what is deleted still fills the disk.
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                # Not what another checkpoint has under its own name.
                if path.stat().st_nlink == 1:
                    os.truncate(path, 0)
        shutil.rmtree(self.path, ignore_errors=True)

    def publish(self, checkpoint: Checkpoint) -> Checkpoint:
        """Have all of it on the disk, then visible; returns it with its files."""
        files = []
        for path in sorted(self.path.iterdir()):
            size = synced(path)
            files.append(
                ImageFile(name=path.name, size=size, sha256=sum_of(path) if size <= _SUM_AT_ONCE else None)
            )
        checkpoint = replace(checkpoint, files=tuple(files))
        _write_manifest(self.path, checkpoint)
        self.path.rename(self.directory)
        synced(self.directory.parent)
        return checkpoint


def read(directory: Path) -> Checkpoint:
    """
    Read what a checkpoint is; the sizes of its files are right when this returns.

    Raises:
        NotFoundError: there is none.
        FailedPreconditionError: it is damaged; details say what.
    """
    checkpoint = read_manifest(directory)
    for file in checkpoint.files:
        try:
            found = (directory / file.name).stat().st_size
        except OSError as error:
            raise damaged(directory, f"{file.name}: {error.strerror}") from error
        if found != file.size:
            raise damaged(directory, f"{file.name} has {found} bytes instead of {file.size}")
    return checkpoint


def read_manifest(directory: Path) -> Checkpoint:
    """Read what a checkpoint is, and do not look at its images; errors as for ``read``."""
    try:
        with (directory / MANIFEST).open("rb") as manifest:
            content = manifest.read(_MOST_MANIFEST)
    except FileNotFoundError as error:
        raise NotFoundError("There is no such checkpoint", details=str(directory)) from error
    except OSError as error:
        raise damaged(directory, f"{MANIFEST}: {error.strerror}") from error
    return _parse(directory, content)


def verify(
    directory: Path, checkpoint: Checkpoint, *, small: bool, summed: Callable[[Path], str] | None = None
) -> None:
    """
    Compare contents with the checksums that are known.

    Args:
        directory: the checkpoint's.
        checkpoint: what ``read`` returned.
        small: look at the files whose sums are known from the start, or at the others.
        summed: returns a file's sum; None: it is read and computed.

    Raises:
        FailedPreconditionError: one differs.
    """
    for file in checkpoint.files:
        if file.sha256 is None or (file.size <= _SUM_AT_ONCE) is not small:
            continue
        try:
            found = (summed or sum_of)(directory / file.name)
        except OSError as error:
            raise damaged(directory, f"{file.name}: {error.strerror}") from error
        if found != file.sha256:
            raise damaged(directory, f"{file.name} is not what was written: its checksum differs")


def seal(
    directory: Path,
    is_stopped: Callable[[], bool] = lambda: False,
    *,
    summed: Callable[[Path, Callable[[], bool]], str] | None = None,
) -> Checkpoint:
    """
    Compute the checksums that are missing, and write them down; returns without, as soon as it is stopped.

    Args:
        directory: the checkpoint's.
        is_stopped: whether it is.
        summed: returns a file's sum, of some part of it when it is stopped; None: it is read and computed.

    Raises:
        NotFoundError: there is no such checkpoint.
        FailedPreconditionError: it is damaged.
    """
    checkpoint = read_manifest(directory)
    if all(file.sha256 is not None for file in checkpoint.files):
        # So is what is only packed, and has no images here.
        return checkpoint
    checkpoint = read(directory)
    try:
        files = tuple(
            file
            if file.sha256 is not None
            else replace(file, sha256=(summed or sum_of)(directory / file.name, is_stopped))
            for file in checkpoint.files
        )
        if is_stopped():
            return checkpoint
        checkpoint = replace(checkpoint, files=files)
        _write_manifest(directory, checkpoint)
    except OSError as error:
        # Unreadable, or removed meanwhile.
        raise damaged(directory, str(error)) from error
    return checkpoint


def damaged(directory: Path, details: str) -> FailedPreconditionError:
    """Say that a checkpoint is of no use."""
    return FailedPreconditionError(
        f"Checkpoint '{directory.name}' is damaged",
        details=f"{directory}: {details}",
        resolution="restore an older one",
    )


def _parse(directory: Path, content: bytes) -> Checkpoint:
    try:
        outer = json.loads(content)
        body = outer["checkpoint"]
        if outer["format"] != _FORMAT:
            raise ValueError(f"format {outer['format']} is not known, only {_FORMAT}")
        if outer["sha256"] != _body_sum(body):
            raise ValueError("its checksum differs")
        fields = {
            **body,
            "kind": CheckpointKind(body["kind"]),
            "template_id": TemplateId(body["template_id"]),
            "cpu_features": tuple(body["cpu_features"]),
            "volume_paths": tuple(body["volume_paths"]),
            "files": tuple(_file(**file) for file in body["files"]),
        }
        return Checkpoint(**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(directory, f"{MANIFEST}: {error}") from error


def _file(name: str, size: int, sha256: str | None) -> ImageFile:
    if "/" in name or name in ("", ".", "..") or not isinstance(size, int):
        raise ValueError(f"'{name:.80}' is no file's name")
    return ImageFile(name=name, size=size, sha256=sha256)


def _write_manifest(directory: Path, checkpoint: Checkpoint) -> None:
    body = asdict(checkpoint)
    text = json.dumps({"format": _FORMAT, "sha256": _body_sum(body), "checkpoint": body})
    new = directory / f".{MANIFEST}.new"
    new.write_text(text)
    synced(new)
    new.rename(directory / MANIFEST)
    synced(directory)


def _body_sum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def sum_of(path: Path, is_stopped: Callable[[], bool] = lambda: False) -> str:
    """Compute a file's SHA-256, hexadecimal; of some part of it, when it is stopped."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while not is_stopped() and (chunk := file.read(_CHUNK)):
            digest.update(chunk)
    return digest.hexdigest()


def synced(path: Path) -> int:
    """Have a file or directory on the disk; returns its size."""
    with _opened(path) as fd:
        os.fsync(fd)
        return os.fstat(fd).st_size


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
