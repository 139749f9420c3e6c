"""
Named network namespaces, in the same place and way as `ip netns`, which therefore lists them.

Being inside a namespace is a thread's own matter: what is called here moves the calling thread for a moment,
and never another one.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

DIRECTORY = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MS_REC = 16384
_MS_SHARED = 1 << 20
_MNT_DETACH = 2
_OWN = "/proc/thread-self/ns/net"


class NetnsError(Exception):
    """The kernel refused a namespace; says which step and why."""


class LostThreadError(BaseException):
    """
    A thread could not return to its own namespace; it must do no more work.

    Not an Exception: nothing that handles ordinary failures may go on in this thread.
    """


# Python 3.11 has neither unshare nor setns nor mount.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]


def path(name: str, directory: Path = DIRECTORY) -> Path:
    """Return where a namespace of this name is, or would be."""
    return directory / name


def names(directory: Path = DIRECTORY) -> list[str]:
    """List the named namespaces, half-made ones too."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return []


def prepare(directory: Path = DIRECTORY) -> bool:
    """
    Make the directory a shared mount, as `ip netns` does; return whether it was not one before.

    Were it not one, the first `ip netns add` would cover our namespaces with copies, and then the ones below
    could not be removed.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    at = os.fsencode(directory)
    if _libc.mount(b"", at, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return False
    if ctypes.get_errno() != errno.EINVAL:
        raise NetnsError(f"share {directory}: {os.strerror(ctypes.get_errno())}")
    _check(_libc.mount(at, at, b"none", _MS_BIND | _MS_REC, None), f"bind {directory}")
    _check(_libc.mount(b"", at, b"none", _MS_SHARED | _MS_REC, None), f"share {directory}")
    return True


def unprepare(directory: Path = DIRECTORY) -> None:
    """Undo ``prepare``, unless somebody has a namespace there."""
    if names(directory):
        return
    # Not detached: with anything mounted below, the kernel says that it is busy, and it stays.
    if _libc.umount2(os.fsencode(directory), 0) == 0:
        with contextlib.suppress(OSError):
            directory.rmdir()


@contextlib.contextmanager
def creating(name: str, directory: Path = DIRECTORY) -> Iterator[None]:
    """
    Make a namespace and give it a name; the calling thread is inside during the block.

    A failure leaves what ``delete`` removes.

    Raises:
        NetnsError: the name is taken, or the kernel refused.
    """
    at = path(name, directory)
    try:
        os.close(os.open(at, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except OSError as error:
        raise NetnsError(f"create {at}: {error.strerror}") from error
    with _returning():
        _check(_libc.unshare(_CLONE_NEWNET), "unshare a network namespace")
        _check(_libc.mount(_OWN.encode(), os.fsencode(at), b"none", _MS_BIND, None), f"bind {at}")
        yield


@contextlib.contextmanager
def creating_unnamed() -> Iterator[int]:
    """
    Make a namespace without a name; the calling thread is inside during the block.

    It lives as long as what is given: a descriptor of it, which the caller closes, unless the block fails.

    Raises:
        NetnsError: the kernel refused.
    """
    with _returning():
        _check(_libc.unshare(_CLONE_NEWNET), "unshare a network namespace")
        fd = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        except BaseException:
            os.close(fd)
            raise


@contextlib.contextmanager
def inside(name: str, directory: Path = DIRECTORY) -> Iterator[None]:
    """
    Have the calling thread inside a named namespace during the block.

    Raises:
        NetnsError: there is no such namespace.
    """
    at = path(name, directory)
    try:
        fd = os.open(at, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetnsError(f"open {at}: {error.strerror}") from error
    try:
        with _returning():
            _check(_libc.setns(fd, _CLONE_NEWNET), f"enter {at}")
            yield
    finally:
        os.close(fd)


def delete(name: str, directory: Path = DIRECTORY) -> None:
    """
    Take a namespace's name away; the kernel ends it when nothing is in it any more.

    A no-op when there is none, or only half of one.

    Raises:
        NetnsError: the kernel refused.
    """
    at = path(name, directory)
    # Until it is no mount any more: it may have been mounted over by a copy of itself.
    while _libc.umount2(os.fsencode(at), _MNT_DETACH) == 0:
        pass
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        raise NetnsError(f"unmount {at}: {os.strerror(ctypes.get_errno())}")
    try:
        at.unlink(missing_ok=True)
    except OSError as error:
        raise NetnsError(f"remove {at}: {error.strerror}") from error


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        failed = _libc.setns(home, _CLONE_NEWNET)
        os.close(home)
        if failed:
            raise LostThreadError(f"setns: {os.strerror(ctypes.get_errno())}")


def _check(failed: int, what: str) -> None:
    if failed:
        raise NetnsError(f"{what}: {os.strerror(ctypes.get_errno())}")
