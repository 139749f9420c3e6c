"""
A file system in a file: made, mounted, unmounted. Blocks; nothing here knows what it is for.

A file of its own bounds what can be written, on whichever file system the host has.
"""

import os
import shlex
import subprocess
from pathlib import Path

# What the programs may take: they touch some megabytes.
_TIMEOUT_S = 60


class Ext4Error(Exception):
    """A program failed; the text has its own words."""


def make(image: Path, size_bytes: int) -> None:
    """
    Make an empty file system that takes room as it is written to. The file must not be there.

    Raises:
        Ext4Error: the program is missing, or failed.
        OSError: the file cannot be made.
    """
    fd = os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size_bytes)
    finally:
        os.close(fd)
    # Tables are zeroes already; no blocks are kept for root, who is a guest there.
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(image))


def mount(image: Path, directory: Path) -> None:
    """
    Mount a file's file system. What is deleted in it gives its room back to the host.

    Raises:
        Ext4Error: the host has no loop devices left, or the file is damaged.
    """
    _run("mount", "-t", "ext4", "-o", "loop,nosuid,nodev,discard", str(image), str(directory))


def unmount(directory: Path) -> None:
    """
    Take a file system off its directory; whoever holds it still keeps it until he lets go.

    Raises:
        Ext4Error: it would not go.
    """
    _run("umount", "--lazy", str(directory))


def _run(*argv: str) -> None:
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except FileNotFoundError as error:
        raise Ext4Error(f"{argv[0]} is missing (Debian: e2fsprogs, mount)") from error
    except subprocess.TimeoutExpired as error:
        raise Ext4Error(f"{shlex.join(argv)}: took more than {_TIMEOUT_S} s") from error
    if done.returncode:
        raise Ext4Error(f"{shlex.join(argv)}: {done.stderr.strip()[-500:]}")
