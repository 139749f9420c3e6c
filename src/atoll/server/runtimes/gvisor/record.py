"""
What is written down of each sandbox for the next server: machine.json in the sandbox's directory.

Written before anything is started and again when it runs; each time as a whole, by a rename.
It need not survive a loss of power, since no sandbox does; the id of the boot tells.
"""

import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from atoll.server.domain.ids import SandboxId
from atoll.server.host.pidfd import ProcessId

_NAME = "machine.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """
    One sandbox.

    Attributes:
        boot_id: of the machine, when this was written.
        runsc: the program that runs it, and writes it down.
        runsc_version: what that says of itself; a checkpoint belongs to it.
        guestd: which guestd it runs, by content; see guestds.py.
        memory_bytes: the promise.
        template_id: what lies below its root disk.
        disk_bytes: the limit of its root disk.
        shm_bytes: size of its /dev/shm.
        volume_paths: where its volumes are inside.
        address: the slot's; None before there is one.
        sentry: the process that isolates; None until it is known to run.
        gofer: the process that opens files for it.
        ready_at: when guestd was ready, in clock ticks since the machine's start: of the sandbox's processes,
            those that were there by then run guestd, and later ones run commands.
    """

    sandbox_id: SandboxId
    boot_id: str
    runsc: str
    memory_bytes: int
    runsc_version: str = ""
    guestd: str = ""
    template_id: str = ""
    disk_bytes: int = 0
    shm_bytes: int = 0
    volume_paths: tuple[str, ...] = ()
    address: str | None = None
    sentry: ProcessId | None = None
    gofer: ProcessId | None = None
    ready_at: int = 0

    def write(self, directory: Path) -> None:
        """Put this in place of what is written in a sandbox's directory."""
        new = directory / f".{_NAME}.new"
        new.write_text(json.dumps({"format": _FORMAT, **asdict(self)}))
        new.rename(directory / _NAME)

    @classmethod
    def read(cls, directory: Path) -> "Record | None":
        """Read what is written; None if it is nothing that this version understands."""
        try:
            content = json.loads((directory / _NAME).read_text())
            if content.pop("format") != _FORMAT:
                return None
            for name in ("sentry", "gofer"):
                if content[name] is not None:
                    content[name] = ProcessId(**content[name])
            content["volume_paths"] = tuple(content.get("volume_paths", ()))
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


@cache
def boot_id() -> str:
    """Name the time since the machine started: process numbers and start times belong to it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def directories(home: Path) -> list[Path]:
    """List the sandboxes' directories."""
    try:
        return [Path(entry.path) for entry in os.scandir(home) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
