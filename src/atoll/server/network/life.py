"""What of a home runs: its server, its edge, its sandboxes. Changes nothing; blocks for milliseconds."""

import itertools
import os
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from atoll.server.host import cgroup
from atoll.server.host.pidfd import Pidfd
from atoll.server.network.home_records import HomeRecord

# How an edge is told whose sandboxes it serves; no other program is called with a range that is claimed.
_EDGE, _EDGE_RANGE = "atoll-edge", b"--range"


@dataclass(frozen=True, kw_only=True)
class Life:
    """
    What runs; false when nothing does.

    Attributes:
        server: the number of its process, None when there is none.
        edges: the same, usually of one.
        sandboxes: the names of the control groups in which processes are.
    """

    server: int | None
    edges: tuple[int, ...]
    sandboxes: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.server is not None or bool(self.edges) or bool(self.sandboxes)

    def __str__(self) -> str:
        count = len(self.sandboxes)
        words = [f"{count} sandbox{'es' if count > 1 else ''}"] if count else []
        words += [f"the server (process {self.server})"] if self.server is not None else []
        words += [f"the edge (process {pid})" for pid in self.edges]
        return ", ".join(words)


def life_of(record: HomeRecord | None, *, group: str, claimed: IPv4Network | None) -> Life:
    """
    Look what runs of a home.

    Args:
        record: the home's; without one its server is not found.
        group: the control group below which its sandboxes have theirs.
        claimed: its range; without one its edge is not found.

    Raises:
        CgroupError: control groups cannot be looked at.
    """
    server = record.running_server() if record else None
    if server is not None:
        server.close()
    return Life(
        server=server.identity.pid if server else None,
        edges=tuple(_edges(claimed)) if claimed else (),
        sandboxes=tuple(
            name for name in sorted(cgroup.children(group)) if cgroup.open_cgroup(f"{group}/{name}").pids()
        ),
    )


def hold_edges(claimed: IPv4Network) -> list[Pidfd]:
    """Hold the edge of the home that claims a range, if it runs; whoever calls closes what is returned."""
    held = []
    for pid in _edges(claimed):
        try:
            one = Pidfd.open(pid)
        except ProcessLookupError:
            continue
        # Between the two the process may have ended, and its number be another's.
        if _is_edge(pid, claimed):
            held.append(one)
        else:
            one.close()
    return held


def _edges(claimed: IPv4Network) -> list[int]:
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in numbers if _is_edge(pid, claimed)]


def _is_edge(pid: int, claimed: IPv4Network) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    option = (_EDGE_RANGE, str(claimed).encode())
    return Path(os.fsdecode(words[0])).name == _EDGE and option in itertools.pairwise(words)
