"""Where the gVisor runtime keeps things: paths on disk and names in the kernel, all from the home's id."""

from dataclasses import dataclass
from pathlib import Path

from atoll.server.domain.ids import SandboxId
from atoll.server.host.cgroup import open_cgroup
from atoll.server.host.cgroup_base import Cgroup


@dataclass(frozen=True, kw_only=True)
class Places:
    """
    One home's.

    Attributes:
        home_id: 6 hexadecimal digits.
        sandboxes: a directory for each sandbox is made in it.
        volume_mounts: where volumes are mounted for sandboxes.
        runsc_state: runsc's own directory; its sockets are in it, so the path is short (at most 64 bytes).
        runsc: the program.
        guestd: the program that runs first in every sandbox; static.
        guestds: copies of it, for what may need one of before an update.
        runscs: versions of runsc side by side, for checkpoints of before an update; None: there is none.
    """

    home_id: str
    sandboxes: Path
    volume_mounts: Path
    runsc_state: Path
    runsc: Path
    guestd: Path
    guestds: Path
    runscs: Path | None = None

    @property
    def cgroup_parent(self) -> str:
        """The control group that groups those of the sandboxes."""
        return cgroup_parent(self.home_id)

    def cgroup(self, sandbox_id: SandboxId) -> Cgroup:
        """The sandbox's control group, whether it is there or not."""
        return open_cgroup(f"{self.cgroup_parent}/{sandbox_id}")

    def directory(self, sandbox_id: SandboxId) -> "Directory":
        """The sandbox's directory, whether it is there or not."""
        return Directory(path=self.sandboxes / sandbox_id)


def cgroup_parent(home_id: str) -> str:
    """Name the control group below which a home's sandboxes have theirs."""
    return f"/atoll-{home_id}"


@dataclass(frozen=True, kw_only=True)
class Directory:
    """One sandbox's directory; it is runsc's bundle at the same time."""

    path: Path

    @property
    def config(self) -> Path:
        """The OCI description."""
        return self.path / "config.json"

    @property
    def overlay(self) -> Path:
        """Where the file of the root's upper layer is made, and unlinked at once."""
        return self.path / "overlay"

    @property
    def sentry_pid(self) -> Path:
        """The number of the process that isolates."""
        return self.path / "sentry.pid"

    @property
    def final_metrics(self) -> Path:
        """Written by a sentry that ends in good order, which it does when the guest ended; else empty."""
        return self.path / "final-metrics"

    @property
    def panic_log(self) -> Path:
        """The last words of a sentry that crashed."""
        return self.path / "panic.log"

    @property
    def command_log(self) -> Path:
        """The warnings of runsc's commands."""
        return self.path / "runsc.log"

    @property
    def pausing(self) -> Path:
        """There while programs stand still for a checkpoint: a next server has them go on."""
        return self.path / "pausing"

    @property
    def leaving(self) -> Path:
        """There once a machine is to go, before any of it is gone: a next server removes what is left."""
        return self.path / "leaving"
