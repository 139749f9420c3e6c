"""Control groups of homes, on either version; what comes and goes while one looks is passed over."""

import os
from pathlib import Path

TOP = Path("/sys/fs/cgroup")


def of_home(home_id: str) -> list[Path]:
    """List the groups of a home: one, or one in each hierarchy."""
    name = f"atoll-{home_id}"
    return sorted(Path(folder) / name for folder, inside, _ in os.walk(TOP) if name in inside)


def of_sandboxes(home_id: str) -> set[str]:
    """List the sandboxes of a home that have groups, by id."""
    found = set()
    for group in of_home(home_id):
        for _, inside, _ in os.walk(group):
            found |= {name for name in inside if name.startswith("i")}
            break
    return found
