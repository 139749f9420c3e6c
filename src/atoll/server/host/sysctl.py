"""
Kernel settings: files below /proc/sys.

A setting is named by its path there, with slashes ("net/ipv4/ip_forward"): an interface's name may hold dots.
What below net/ is found depends on the network namespace of the calling thread.
"""

import os
import re
from pathlib import Path

PROC_SYS = Path("/proc/sys")

# An interface's name takes any byte but a slash and white space; "." and ".." would leave the tree.
_PART = re.compile(r"(?!\.\.?$)[^/\s\0]{1,64}")


class SysctlError(Exception):
    """A setting could not be read or written; says which and why."""


def read(name: str, root: Path = PROC_SYS) -> str:
    """
    Return a setting's value, without the newline behind it.

    Raises:
        SysctlError: this kernel does not have it, or does not let us.
    """
    try:
        return _file(name, root).read_text().strip()
    except OSError as error:
        raise SysctlError(f"read {name}: {error.strerror}") from error


def write(name: str, value: str, root: Path = PROC_SYS) -> None:
    """
    Give a setting a value.

    Raises:
        SysctlError: this kernel does not have it, or refuses the value.
    """
    file = _file(name, root)
    try:
        # Without O_CREAT: what the kernel lacks must be an error in a test's tree too.
        fd = os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise SysctlError(f"write {value!r} to {name}: {error.strerror}") from error


def _file(name: str, root: Path) -> Path:
    parts = name.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise SysctlError(f"{name!r} does not name a setting")
    return root.joinpath(*parts)
