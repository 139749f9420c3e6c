"""
Sees machines end, and says why.

The kernel tells the end of the sentry and the gofer through their descriptors, at once.
Why, is read from what they left: each kind of end leaves evidence that the others do not.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import MachineEnded
from atoll.server.domain.sandbox import EndReason
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.runtimes.gvisor.running import Running

log = structlog.get_logger(__name__)

# A gofer that lost its sentry waits half a second for the sentry's end before its own; so one that ends
# while the sentry lives, and not so long after the sentry closed its books, did not end by itself.
_GOFER_WAITS_S = 0.4
# After the gofer the sentry ends in milliseconds; when it does not, the machine is over all the same.
_SENTRY_FOLLOWS_S = 0.3
_MOST_PANIC = 2000


class EndWatch:
    """Watches machines; must be told before one is destroyed."""

    def __init__(
        self, ended: Callable[[MachineEnded], None], *, is_short_of_memory: Callable[[SandboxId], bool]
    ) -> None:
        """
        Args:
            ended: told once for each machine that ends by itself.
            is_short_of_memory: asked about a machine that just ended.
        """
        self._ended = ended
        self._is_short_of_memory = is_short_of_memory
        self._watched: dict[SandboxId, _Watched] = {}

    def add(self, running: Running) -> None:
        """Begin to watch."""
        self._watched[running.record.sandbox_id] = _Watched(running, self._tell, self._is_short_of_memory)

    def remove(self, sandbox_id: SandboxId) -> None:
        """Stop watching; nothing is told any more."""
        if watched := self._watched.pop(sandbox_id, None):
            watched.close()

    def close(self) -> None:
        """Stop watching all."""
        for sandbox_id in list(self._watched):
            self.remove(sandbox_id)

    def ended_otherwise(self, running: Running, reason: EndReason, detail: str) -> None:
        """Tell an end that was found in another way."""
        self._tell(MachineEnded(sandbox_id=running.record.sandbox_id, reason=reason, detail=detail))

    def _tell(self, event: MachineEnded) -> None:
        if event.sandbox_id in self._watched:
            self.remove(event.sandbox_id)
            log.info("machine ended", sandbox_id=event.sandbox_id, reason=event.reason, detail=event.detail)
            self._ended(event)


class _Watched:
    def __init__(
        self,
        running: Running,
        tell: Callable[[MachineEnded], None],
        is_short_of_memory: Callable[[SandboxId], bool],
    ) -> None:
        self._running = running
        self._tell = tell
        self._is_short_of_memory = is_short_of_memory
        self._loop = asyncio.get_running_loop()
        self._late: asyncio.TimerHandle | None = None
        self._gofer_first = False
        self._loop.add_reader(running.sentry.fileno(), self._sentry_ended)
        if running.gofer is not None:
            self._loop.add_reader(running.gofer.fileno(), self._gofer_ended)

    def close(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._loop.remove_reader(self._running.sentry.fileno())
        self._forget_gofer()

    def _forget_gofer(self) -> None:
        if self._running.gofer is not None:
            self._loop.remove_reader(self._running.gofer.fileno())

    def _gofer_ended(self) -> None:
        # The kernel tells ends in their order, however late we listen: the sentry's was not told before.
        # A descriptor of an ended process stays readable.
        self._forget_gofer()
        self._gofer_first = _age(self._running.directory.final_metrics) < _GOFER_WAITS_S
        self._late = self._loop.call_later(_SENTRY_FOLLOWS_S, self._sentry_ended)

    def _sentry_ended(self) -> None:
        running = self._running
        short = self._is_short_of_memory(running.record.sandbox_id)
        reason, detail = judge(running, gofer_first=self._gofer_first, short_of_memory=short)
        self._tell(MachineEnded(sandbox_id=running.record.sandbox_id, reason=reason, detail=detail))


def judge(running: Running, *, gofer_first: bool, short_of_memory: bool) -> tuple[EndReason, str]:
    """Say why a machine ended, from what is left of it."""
    try:
        kills, refused = running.cgroup.out_of_memory_kills(), running.cgroup.refused_processes()
    except CgroupError as error:
        log.warning("no counters of an ended machine", error=str(error))
        kills = refused = 0
    if kills:
        return EndReason.OOM, f"the kernel killed {kills} processes at the host's memory wall"
    if gofer_first:
        return EndReason.RUNTIME_ENDED, "gVisor's gofer ended first: it was killed, or crashed"
    if _size(running.directory.final_metrics):
        return EndReason.GUEST_ENDED, "the first process ended, and gVisor's sentry after it, in good order"
    panic = _tail(running.directory.panic_log)
    if short_of_memory:
        # At the wall the kernel refuses memory for a new thread, say, and the sentry gives up.
        return EndReason.OOM, f"gVisor's sentry ended at the host's memory wall; {panic}"
    if refused:
        return EndReason.PROCESS_LIMIT, f"the host refused {refused} processes or threads; {panic}"
    return EndReason.RUNTIME_ENDED, f"gVisor's sentry ended first: it was killed, or crashed; {panic}"


def _age(file: Path) -> float:
    """Say for how many seconds a file is written; 0 when it is empty."""
    try:
        stat = file.stat()
    except OSError:
        return 0
    return time.time() - stat.st_mtime if stat.st_size else 0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            # The cause stands first in what Go prints.
            return opened.read(_MOST_PANIC).decode(errors="replace").strip() or "no last words"
    except OSError:
        return "no last words"
