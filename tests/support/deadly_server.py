"""
The real server, killed by SIGKILL at a step: ``python -m support.deadly_server STEP serve --home H ...``.

A step is ``<method>:before`` or ``<method>:after``, or ``<method>:2:before`` for the second call. It counts
once the file ``armed`` is in the home: what a start puts right must not be cut off, too.
"never" is no step.
"""

import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atoll.server.edge.process import EdgeProcess
from atoll.server.guests.client import HttpGuest
from atoll.server.host import cgroup_v1, cgroup_v2
from atoll.server.host.runsc import Runsc
from atoll.server.main.__main__ import main
from atoll.server.network.fence import Fence
from atoll.server.network.making import SlotMaker
from atoll.server.network.records import Records
from atoll.server.network.slots import SlotPool
from atoll.server.runtimes.gvisor.beginning import Beginner
from atoll.server.runtimes.gvisor.launch import Launcher
from atoll.server.runtimes.gvisor.record import Record
from atoll.server.runtimes.gvisor.removing import Remover
from atoll.server.runtimes.images import Half
from atoll.server.runtimes.kept import CheckpointFiles
from atoll.server.stores.sandboxes import SqliteSandboxes

CLASSES: dict[str, type[Any]] = {
    one.__name__: one
    for one in (
        Beginner, CheckpointFiles, EdgeProcess, Fence, Half, HttpGuest, Launcher, Record, Records, Remover,
        Runsc, SlotMaker, SlotPool, SqliteSandboxes,
    )
}  # fmt: skip
# Whichever this machine has.
CGROUPS = (cgroup_v1.CgroupV1, cgroup_v2.CgroupV2)


def deadly(step: str, home: Path) -> None:
    """Have the step kill this process."""
    if step == "never":
        return
    method, *rest = step.split(":")
    when, nth = rest[-1], int(rest[0]) if len(rest) == 2 else 1
    owner, _, name = method.partition(".")
    for one in CGROUPS if owner == "Cgroup" else (CLASSES[owner],):
        _wrap(one, name, _Killer(home / "armed", nth), when)


class _Killer:
    """Counts calls while armed; the n-th one is the last thing that this process does."""

    def __init__(self, armed: Path, nth: int) -> None:
        self._armed = armed
        self._left = nth

    def pass_by(self) -> None:
        if not self._armed.exists():
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: type[Any], name: str, killer: _Killer, when: str) -> None:
    real: Callable[..., Any] = getattr(owner, name)
    assert when in {"before", "after"}

    async def wrapped_async(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            killer.pass_by()
        result = await real(*args, **kwargs)
        if when == "after":
            killer.pass_by()
        return result

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            killer.pass_by()
        result = real(*args, **kwargs)
        if when == "after":
            killer.pass_by()
        return result

    setattr(owner, name, wrapped_async if inspect.iscoroutinefunction(real) else wrapped)


if __name__ == "__main__":
    deadly(sys.argv[1], Path(sys.argv[sys.argv.index("--home") + 1]))
    sys.exit(main(sys.argv[2:]))
