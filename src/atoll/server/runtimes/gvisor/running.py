"""A machine that runs: its processes, found once it has come up."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from atoll.server.domain.errors import UnavailableError
from atoll.server.host.cgroup_base import Cgroup
from atoll.server.host.pidfd import Pidfd
from atoll.server.runtimes.gvisor.places import Directory
from atoll.server.runtimes.gvisor.record import Record


@dataclass(frozen=True, kw_only=True)
class Running:
    """A machine that runs: what is written down, and what holds its processes."""

    record: Record
    directory: Directory
    cgroup: Cgroup
    sentry: Pidfd
    gofer: Pidfd | None

    def close(self) -> None:
        """Let go of the processes."""
        self.sentry.close()
        if self.gofer is not None:
            self.gofer.close()


def hold(record: Record, directory: Directory, cgroup: Cgroup) -> Running:
    """
    Find a machine's processes, once it has come up.

    Raises:
        UnavailableError: it has ended.
        CgroupError: its processes cannot be listed.
    """
    try:
        sentry = Pidfd.open(int(directory.sentry_pid.read_text()))
    except (ProcessLookupError, ValueError, OSError) as error:
        raise UnavailableError(
            "The machine ended while it started", details=f"{error}; {text(directory.panic_log)}"
        ) from error
    gofer = None
    try:
        # It has come up, so it is in every hierarchy.
        for pid in cgroup.some_pids():
            if pid != sentry.identity.pid and (gofer := _hold_gofer(pid)) is not None:
                break
    except BaseException:
        sentry.close()
        raise
    record = replace(
        record,
        sentry=sentry.identity,
        gofer=gofer.identity if gofer is not None else None,
        ready_at=_ticks_now(),
    )
    return Running(record=record, directory=directory, cgroup=cgroup, sentry=sentry, gofer=gofer)


def _ticks_now() -> int:
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) + 1


def _hold_gofer(pid: int) -> Pidfd | None:
    try:
        held = Pidfd.open(pid)
    except ProcessLookupError:
        return None
    try:
        # runsc names its processes so; the sentry's helpers have no command line.
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runsc-gofer\0"):
            return held
    except OSError:
        pass
    held.close()
    return None


def text(file: Path) -> str:
    """Read the end of a log; "" when there is none."""
    try:
        return file.read_text(errors="replace")[-2000:]
    except OSError:
        return ""
