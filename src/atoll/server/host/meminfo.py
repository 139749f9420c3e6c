"""What the kernel says of this machine's memory."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_bytes(meminfo: Path = _MEMINFO) -> int:
    """
    Say how much programs could get without swapping, by the kernel's own estimate.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not say so.
    """
    for line in meminfo.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    raise ValueError(f"{meminfo} has no MemAvailable")
