"""
/etc/resolv.conf: a name server put before those that are there, and taken out again.

The file is written in its place, not replaced: it may be a mount of its own (containers), and keeps its owner
and mode so. Programs ask its servers in their order, the next when one does not answer.
"""

import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

from atoll.server.host.etc_file import EtcFileError

PATH = Path("/etc/resolv.conf")
# More is not what a resolver reads (glibc takes three servers and six domains).
_MOST_BYTES = 64 << 10
_SERVER = re.compile(rb"^[ \t]*nameserver[ \t]+(\S+)", re.MULTILINE)
_COMMENTED = re.compile(rb"^nameserver (\S+)\n# (.+)\n", re.MULTILINE)
_ROTATE = re.compile(rb"^[ \t]*options\b.*\brotate\b", re.MULTILINE)


class ResolvConfError(EtcFileError):
    """/etc/resolv.conf cannot be changed: why, and what to do."""


def servers(content: bytes) -> list[str]:
    """List the name servers of a file's content."""
    return [found.decode(errors="replace") for found in _SERVER.findall(content)]


def with_first(content: bytes, address: str, comment: str) -> bytes:
    """
    Put a server before the others.

    Raises:
        ResolvConfError: the file has its servers asked in turn, so that there is no first.
    """
    if _ROTATE.search(content):
        raise ResolvConfError(
            "it has servers asked in turn (options rotate): every second question would not come to us",
            "Take that option out.",
        )
    first = _SERVER.search(content)
    place = first.start() if first else len(content)
    if not first and content and not content.endswith(b"\n"):
        content, place = content + b"\n", place + 1
    return content[:place] + _lines(address, comment) + content[place:]


def without(content: bytes, address: str, comment: str) -> bytes:
    """Take a server out that ``with_first`` put in, and nothing else."""
    return content.replace(_lines(address, comment), b"", 1)


def with_comments(content: bytes) -> list[tuple[str, str]]:
    """List servers and comments as ``with_first`` puts them in, whoever did."""
    found = _COMMENTED.findall(content)
    return [(server.decode(errors="replace"), comment.decode(errors="replace")) for server, comment in found]


def _lines(address: str, comment: str) -> bytes:
    # The comment behind it: the next one that is put before the first server must not come between the two.
    return f"nameserver {address}\n# {comment}\n".encode()


def read(path: Path = PATH) -> bytes:
    """
    Read the file.

    Raises:
        ResolvConfError: there is none, or it is a link: what it points at is somebody else's to write.
    """
    try:
        if path.is_symlink():
            raise ResolvConfError(
                f"{path} is a link to {path.readlink()}, which another program writes",
                "Name the server in the settings of that program, or replace the link by a file of your own.",
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise ResolvConfError(
            f"There is no {path}", "Write one that names this machine's name servers first."
        ) from None
    except OSError as error:
        raise ResolvConfError.refused(path, error) from error
    if len(content) > _MOST_BYTES:
        raise ResolvConfError(f"{path} has {len(content)} bytes", "That is no file for a resolver.")
    return content


def change(edit: Callable[[bytes], bytes], path: Path = PATH) -> None:
    """
    Write what *edit* makes of the content, which nobody who asks the same way changes meanwhile.

    Raises:
        ResolvConfError: as ``read``, or it cannot be written.
    """
    read(path)
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ResolvConfError.refused(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        before = os.pread(fd, _MOST_BYTES, 0)
        after = edit(before)
        if after != before:
            os.pwrite(fd, after, 0)
            os.ftruncate(fd, len(after))
            os.fsync(fd)
    except OSError as error:
        raise ResolvConfError.refused(path, error) from error
    finally:
        os.close(fd)
