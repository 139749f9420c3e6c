"""Bind mounts, by the kernel's own calls: starting `mount` for each would cost a sandbox 2 ms. Blocks."""

import ctypes
import os
from pathlib import Path

_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_SHARED = 0x1, 0x20, 0x1000, 1 << 20
_MNT_DETACH, _UMOUNT_NOFOLLOW = 0x2, 0x8


def bind(source: Path, target: Path) -> None:
    """
    Have a directory at another place, too.

    Raises:
        OSError: the kernel refuses.
    """
    _mount(source, target, _MS_BIND)


def ensure_read_only(source: Path, target: Path) -> None:
    """
    Have a directory at another place where nobody writes to it; to what is mounted below it one may.

    Raises:
        OSError: the kernel refuses.
    """
    if not is_mounted(target):
        bind(source, target)
    _mount(None, target, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def ensure_shared(directory: Path) -> None:
    """
    Have whatever is mounted below a directory later appear in every copy of it that is told to follow.

    Raises:
        OSError: the kernel refuses.
    """
    if not is_mounted(directory):
        bind(directory, directory)
    _mount(None, directory, _MS_SHARED)


def unmount(target: Path) -> None:
    """
    Take what is mounted at a place off it; who uses it still keeps it until he lets go.

    Raises:
        OSError: the kernel refuses: nothing is mounted there, say.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
        _fail(target)


def is_mounted(place: Path) -> bool:
    """Say whether something is mounted at a place, also from the same file system."""
    return os.fsencode(place.resolve()) in _places()


def below(directory: Path) -> list[Path]:
    """
    List the places at and below a directory at which something is mounted, in the order of mounting.

    Args:
        directory: an absolute path without links, as the kernel names places. No link is followed: whoever
            put one there would choose what is found.
    """
    top = os.fsencode(directory)
    return [Path(os.fsdecode(place)) for place in _places() if place == top or place.startswith(top + b"/")]


def _places() -> list[bytes]:
    # The fifth word is the place; blanks and backslashes in it are written in octal.
    return [
        _unescaped(line.split(b" ")[4]) for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
    ]


def _unescaped(word: bytes) -> bytes:
    return word.decode("unicode_escape").encode("latin-1")


def _mount(source: Path | None, target: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    origin = None if source is None else os.fsencode(source)
    if libc.mount(origin, os.fsencode(target), None, ctypes.c_ulong(flags), None) != 0:
        _fail(target)


def _fail(target: Path) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), str(target))
