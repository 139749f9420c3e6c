"""Small disks for tests: what is full there harms nobody."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(place: Path, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes at a place, which is made."""
    image = place.with_suffix(".ext4")
    place.mkdir()
    subprocess.run(["truncate", f"--size={size}", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
