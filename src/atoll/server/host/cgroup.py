"""Control groups of this machine: the version, and what is there. What a group does: cgroup_base.py."""

import contextlib
import os
from pathlib import Path

from atoll.server.host import cgroup_v2
from atoll.server.host.cgroup_base import MOUNT, Cgroup, CgroupError, join, remove_tree
from atoll.server.host.cgroup_v1 import CgroupV1
from atoll.server.host.cgroup_v2 import CgroupV2


def open_cgroup(path: str, mount: Path = MOUNT) -> Cgroup:
    """
    Return the group of this path in the version that the machine uses.

    A machine with both (v1 with an empty v2 beside it) counts as v1, as it does for runsc.
    """
    return CgroupV2(path, mount) if version(mount) == 2 else CgroupV1(path, mount)


def version(mount: Path = MOUNT) -> int:
    """
    Say which version the machine uses: 1 or 2.

    Raises:
        CgroupError: neither is mounted.
    """
    if (mount / "cgroup.controllers").exists():
        return 2
    if (mount / "memory" / "memory.limit_in_bytes").exists():
        return 1
    raise CgroupError(
        f"no control groups at {mount}: neither v2 nor v1 with the memory controller is mounted"
    )


def children(path: str, mount: Path = MOUNT) -> set[str]:
    """List the names of the groups right below a path, in any hierarchy."""
    names: set[str] = set()
    for top in _tops(mount):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names |= {entry.name for entry in os.scandir(join(top, path)) if entry.is_dir()}
    return names


def remove_empty(path: str, mount: Path = MOUNT) -> None:
    """Remove the directory that groups others, wherever nothing is below it any more."""
    if version(mount) == 2:
        with contextlib.suppress(OSError):
            join(mount, path).rmdir()
        cgroup_v2.take_back(mount)
        return
    for top in mount.iterdir():
        with contextlib.suppress(OSError):
            join(top, path).rmdir()


def remove_with_children(path: str, mount: Path = MOUNT) -> None:
    """
    Remove a group and those below it, of which none may hold a process; a no-op when there is none.

    Raises:
        CgroupError: one holds a process, or is busy.
    """
    try:
        for top in _tops(mount):
            remove_tree(join(top, path))
    except OSError as error:
        raise CgroupError(f"remove {path}: {error.strerror}") from error
    # For what else goes with it.
    remove_empty(path, mount)


def _tops(mount: Path) -> list[Path]:
    return [mount] if version(mount) == 2 else [top for top in mount.iterdir() if top.is_dir()]
