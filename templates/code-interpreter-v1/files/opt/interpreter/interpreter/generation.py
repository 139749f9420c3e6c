"""
Which generation of the sandbox this is: a number that grows when it is restored, forks included.

What a kernel has drawn of random numbers before is the same in all forks of it, so it is to begin anew then.
"""

from pathlib import Path

_FILE = Path("/run/atoll/generation")


def current(file: Path = _FILE) -> str:
    """Read it; "" where nobody says."""
    try:
        return file.read_text()
    except OSError:
        return ""
