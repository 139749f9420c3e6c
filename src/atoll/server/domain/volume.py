"""
A volume, as data: files that outlive sandboxes, and where a sandbox sees them.

Verbs live in control/owned/volumes.py.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import TeamId, VolumeId, may_be_volume_id

# As E2B has it, and short enough for every list.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}")
# Of a page of a list.
MOST_LISTED = 100
# What the kernel takes for a path, and what a sandbox cannot do without.
_MOST_PATH_BYTES = 1024
_TAKEN = ("/proc", "/sys", "/dev", "/.atoll", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64")

# Where a sandbox sees all its volumes; guestd binds each to its path.
VOLUMES = "/.atoll/volumes"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """
    One row.

    Attributes:
        id: never used twice.
        team_id: who owns it.
        name: the owner's, one of its kind in the team.
        size_bytes: what it holds at most.
        created_at: when it was made.
    """

    id: VolumeId
    team_id: TeamId
    name: str
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """
    Where a sandbox sees a volume.

    Attributes:
        volume_id: which.
        name: the volume's, as it was at the time.
        path: inside, absolute; made if it is not there.
    """

    volume_id: VolumeId
    name: str
    path: str

    @property
    def place(self) -> str:
        """Its name below ``VOLUMES``; it belongs to the path, so that a restore finds it there again."""
        return hashlib.sha256(self.path.encode()).hexdigest()[:16]


def check_name(name: str) -> str:
    """
    Check the name of a volume.

    Raises:
        InvalidArgumentError: it has another form.
    """
    if not may_be_name(name):
        raise InvalidArgumentError(
            "Invalid volume name",
            details=f"{name[:64]!r} is not 1 to 63 letters, digits, '-' and '_', a letter or digit first",
        )
    if may_be_volume_id(name):
        raise InvalidArgumentError(
            "Invalid volume name", details=f"{name!r} has the form of an id: nobody could tell which is meant"
        )
    return name


def may_be_name(untrusted: str) -> bool:
    """Tell whether a volume could have this name."""
    return _NAME.fullmatch(untrusted) is not None


def check_paths(paths: Sequence[str]) -> None:
    """
    Check where the volumes of one sandbox are to be.

    Raises:
        InvalidArgumentError: a path is not absolute and clean, belongs to the system, or lies in another one.
    """
    for path in paths:
        pure = PurePosixPath(path)
        clean = (
            str(pure) == path and pure.is_absolute() and ".." not in pure.parts and not path.startswith("//")
        )
        if not clean or "\0" in path or len(path.encode(errors="surrogatepass")) > _MOST_PATH_BYTES:
            raise InvalidArgumentError(
                f"A volume cannot be mounted at {path[:64]!r}",
                resolution="Name a clean absolute path: /data, say.",
            )
        if path == "/" or any(pure.is_relative_to(taken) for taken in _TAKEN):
            raise InvalidArgumentError(f"A volume cannot be mounted at {path[:64]!r}, which the system needs")
    for one in paths:
        if paths.count(one) > 1 or any(
            PurePosixPath(one).is_relative_to(other) for other in paths if other != one
        ):
            raise InvalidArgumentError(f"Two volumes cannot be mounted at {one[:64]!r} or below it")


def to_plain(mounts: Sequence[VolumeMount]) -> list[dict[str, str]]:
    """Write mounts as JSON has them."""
    return [{"volume_id": mount.volume_id, "name": mount.name, "path": mount.path} for mount in mounts]


def from_plain(plain: Sequence[Mapping[str, Any]]) -> tuple[VolumeMount, ...]:
    """
    Read what ``to_plain`` wrote.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(plain, list):
        raise TypeError(f"no list of mounts: {plain!r:.100}")
    return tuple(VolumeMount(**mount) for mount in plain)
