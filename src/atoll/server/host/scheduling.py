"""How the kernel shares the processor between processes: those that may wait, and the others."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from atoll.server.host.pidfd import read_start_time


def let_wait(pids: Iterable[int]) -> None:
    """
    Have processes run, with all their threads, only when nobody else wants the processor (SCHED_IDLE).

    New threads of theirs are alike. What is gone meanwhile is left out.
    """
    _set(pids, os.SCHED_IDLE)


def let_run(pids: Iterable[int]) -> None:
    """Undo ``let_wait``."""
    _set(pids, os.SCHED_OTHER)


def _set(pids: Iterable[int], policy: int) -> None:
    nothing = os.sched_param(0)
    for pid in pids:
        before = read_start_time(pid)
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setscheduler(int(thread.name), policy, nothing)
        if read_start_time(pid) != before:
            # The number was given to another process meanwhile, which has nothing to do with this.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_OTHER, nothing)
