"""
/etc/hosts: a marked block of lines kept at its end, and taken out again.

A reader sees the file before or after a change: it is replaced by renaming, with the owner, mode and
attributes that it had. Where that cannot be, since the file is a mount of its own (containers), it is written
in place, from the first byte that differs; what stands before the block is not touched even then.
"""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.server.host.etc_file import EtcFileError
from atoll.server.host.locked_file import LockTimeoutError, locked

PATH = Path("/etc/hosts")
# Lists of names to block have some megabytes; each change reads and writes all of it.
_MOST_BYTES = 16 << 20
# What renaming fails with where writing in place may do.
_NOT_BY_RENAMING = frozenset({errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC})
# The start of one of our lines, without its end.
_CUT_OFF = re.compile(rb"[0-9a-f.:]*( [a-z0-9.-]*)?|# ?A?t?o?l?l?( .*)?")
_BEGINS = re.compile(rb"^# (.+) begins(?: \([^)]*\))?: names of \S+; `atoll dns remove`", re.MULTILINE)
# Behind this the block has a newline before it that is ours.
_OUR_NEWLINE = " (behind a newline of ours)"


class HostsFileError(EtcFileError):
    """/etc/hosts cannot be changed: why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class TakenOut:
    """
    A file's content without our block.

    Attributes:
        content: all else, byte for byte.
        found: whether there was a block.
        changed: whether somebody else had changed it; their lines are in the content.
    """

    content: bytes
    found: bool
    changed: bool


def with_block(content: bytes, mark: str, domain: str, lines: Sequence[str]) -> bytes:
    """Put a block at the end of a content that has none; no lines: no block."""
    if not lines:
        return content
    ours = _OUR_NEWLINE if content and not content.endswith(b"\n") else ""
    body = [line.encode() for line in lines]
    first = f"# {mark} begins{ours}: names of {domain}; `atoll dns remove` takes it out".encode()
    block = b"\n".join([first, *body, f"# {mark} ends {_digest(body)}".encode(), b""])
    return content + (b"\n" if ours else b"") + block


def marks(content: bytes) -> list[str]:
    """List the marks of the blocks that a content has, whoever put them there."""
    return [found.decode(errors="replace") for found in _BEGINS.findall(content)]


def without_block(content: bytes, mark: str) -> TakenOut:
    """Take the block out, whole or not: one that somebody changed, or that was written by half."""
    lines = content.split(b"\n")
    begins = re.compile(
        b"# " + re.escape(mark.encode()) + rb" begins( \([^)]*\))?: names of (\S+); `atoll dns remove`.*"
    )
    ends = re.compile(b"# " + re.escape(mark.encode()) + rb" ends ([0-9a-f]{16})")
    starts = [(number, found) for number, line in enumerate(lines) if (found := begins.fullmatch(line))]
    if not starts:
        return TakenOut(content=content, found=False, changed=False)
    first, found = starts[0]
    stops = [number for number in range(first + 1, len(lines)) if ends.fullmatch(lines[number])]
    if len(starts) == 1 and len(stops) == 1:
        (stop,) = stops
        said = ends.fullmatch(lines[stop])
        if said is not None and said[1].decode() == _digest(lines[first + 1 : stop]):
            # A last line that was not ended is not ours to copy.
            behind = lines[stop + 1 :] or [b""]
            if found[1] and behind == [b""]:
                behind = []
            return TakenOut(content=b"\n".join(lines[:first] + behind), found=True, changed=False)
    tail = _others(lines, first, stops, begins, found[2])
    if not any(tail):
        tail = [] if found[1] else [b""]
    return TakenOut(content=b"\n".join(lines[:first] + tail), found=True, changed=True)


def _others(
    lines: Sequence[bytes], first: int, stops: Sequence[int], begins: re.Pattern[bytes], domain: bytes
) -> list[bytes]:
    """List what is not ours from where our block begins: it was changed, or written by half."""
    last = stops[-1] if stops else len(lines) - 1
    # Behind an end that is not the last stands what is left of a longer block, from the middle of a line.
    ours = {*stops, *(number + 1 for number in stops[:-1])}
    if not stops and _CUT_OFF.fullmatch(lines[-1]):
        ours.add(last)
    ours |= {
        number
        for number in range(first, last + 1)
        if not lines[number] or domain in lines[number] or begins.fullmatch(lines[number])
    }
    return [lines[number] for number in range(first, len(lines)) if number not in ours] or [b""]


def change(edit: Callable[[bytes], bytes], lock: Path, path: Path = PATH) -> None:
    """
    Have the file be what *edit* makes of its content; whoever names the same lock waits.

    Raises:
        HostsFileError: it cannot be read or written, or is a link: that is somebody else's to write.
    """
    try:
        with locked(lock):
            before = _read(path)
            after = edit(before)
            if after != before and not _replaced(path, after):
                _write_in_place(path, before, after)
    except LockTimeoutError as error:
        raise HostsFileError(str(error), "Another server changes the file; try again.") from error
    except OSError as error:
        raise HostsFileError.refused(path, error) from error


def _read(path: Path) -> bytes:
    if path.is_symlink():
        raise HostsFileError(
            f"{path} is a link to {path.readlink()}, which another program writes",
            "Use `atoll dns install` without --hosts, or replace the link by a file of your own.",
        )
    content = path.read_bytes()
    if len(content) > _MOST_BYTES:
        raise HostsFileError(f"{path} has {len(content)} bytes", "That is too long to be kept up to date.")
    return content


def _replaced(path: Path, content: bytes) -> bool:
    """Replace the file in one step; False: it has to be written in place."""
    beside = path.with_name(f".{path.name}.atoll")
    try:
        beside.unlink(missing_ok=True)
        old = path.stat()
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchown(fd, old.st_uid, old.st_gid)
            os.fchmod(fd, old.st_mode & 0o7777)
            for name in os.listxattr(path):
                os.setxattr(fd, name, os.getxattr(path, name))
            os.fsync(fd)
        beside.replace(path)
    except OSError as error:
        _drop(beside)
        if error.errno in _NOT_BY_RENAMING:
            return False
        raise
    return True


def _drop(beside: Path) -> None:
    try:
        beside.unlink(missing_ok=True)
    except OSError as error:
        # A directory that cannot be written has no such file either.
        if error.errno not in _NOT_BY_RENAMING:
            raise


def _write_in_place(path: Path, before: bytes, after: bytes) -> None:
    place = _alike(before, after)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while place < len(after):
            place += os.pwrite(fd, after[place:], place)
        if len(after) < len(before):
            os.ftruncate(fd, len(after))
        os.fsync(fd)
    finally:
        os.close(fd)


def _alike(one: bytes, other: bytes) -> int:
    """Count the bytes at the start that are the same."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[:middle] == other[:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def _digest(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]
