"""
Where the homes of this machine are, and what each has on it: a small file for each in the shared directory.

So that others can tell whether a home is still there, and clean up behind one that is not. Written before the
home claims its range, and removed behind that; all under the lock of the ranges. Like the claims themselves,
the files are gone after a restart of the machine. Homes that an older version of Atoll started have none.
"""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from atoll.server.host import locked_file
from atoll.server.host.pidfd import Pidfd, ProcessId, read_start_time
from atoll.server.network.names import is_home_id

log = structlog.get_logger(__name__)

DIRECTORY = "homes"
# Bytes of an identity: it has some hundred.
_MOST_IDENTITY = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class HomeRecord:
    """
    A home's own account of where its things are.

    Attributes:
        identity: the file that makes its directory a home: JSON, in which "id" is the home's.
        public: what everybody may read of it, outside of its directory.
        mounts: directories in which only the home mounts something, without links: once the home is gone,
            others may put some there.
        cgroup: the control group below which its sandboxes have theirs.
        server: the process that prepared the network for it last.
    """

    identity: Path
    public: Path
    mounts: tuple[Path, ...]
    cgroup: str
    server: ProcessId

    @classmethod
    def by_this_process(cls, *, identity: Path, public: Path, mounts: tuple[Path, ...], cgroup: str) -> Self:
        """Make that of a home whose server we are."""
        start_time = read_start_time(os.getpid())
        assert start_time is not None
        server = ProcessId(pid=os.getpid(), start_time=start_time)
        places = tuple(one.resolve() for one in mounts)
        return cls(identity=identity, public=public, mounts=places, cgroup=cgroup, server=server)

    @property
    def directory(self) -> Path:
        """The home's."""
        return self.identity.parent

    def home_there(self) -> str | None:
        """
        Return the id of the home that is at the directory now; None when none is.

        Raises:
            OSError: nobody can tell: its disk fails, say.
            ValueError: nor here: the file is damaged.
        """
        try:
            content = json.loads(_read(self.identity))
        except (FileNotFoundError, NotADirectoryError):
            return None
        found = content.get("id") if isinstance(content, dict) else None
        if not is_home_id(str(found)):
            raise ValueError(f"{self.identity} has no id")
        return str(found)

    def is_gone(self, home_id: str) -> bool:
        """Say whether the home is certainly not at its directory any more."""
        try:
            return self.home_there() != home_id
        except (OSError, ValueError):
            return False

    def running_server(self) -> Pidfd | None:
        """Hold the server's process, if it runs."""
        try:
            held = Pidfd.open(self.server.pid, start_time=self.server.start_time)
        except ProcessLookupError:
            return None
        if held.has_ended():
            held.close()
            return None
        return held


def _read(identity: Path) -> bytes:
    """Read it as what it is now that its home may be gone: anybody's, who may have all others wait for it."""
    # A pipe would be waited for, under the lock without which no home starts.
    fd = os.open(identity, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{identity} is no file")
        return file.read(_MOST_IDENTITY)


class HomeRecords:
    """The files. Whoever calls has the lock of the ranges, but for ``read`` and ``read_all``."""

    def __init__(self, run_dir: Path) -> None:
        """
        Args:
            run_dir: the directory that all homes of this machine share.
        """
        self._directory = run_dir / DIRECTORY

    def read_all(self) -> dict[str, HomeRecord]:
        """Read those of all homes; a damaged one is as none."""
        found = {}
        for file in sorted(self._directory.glob("*.json")):
            if is_home_id(file.stem) and (record := self.read(file.stem)) is not None:
                found[file.stem] = record
        return found

    def read(self, home_id: str) -> HomeRecord | None:
        """Read a home's; None when it has none, or a damaged one."""
        try:
            content = locked_file.read_json(self._file(home_id))
            if content is None:
                return None
            if not isinstance(content, dict):
                raise TypeError("not an object")
            return HomeRecord(
                identity=Path(content["identity"]),
                public=Path(content["public"]),
                mounts=tuple(Path(one) for one in content["mounts"]),
                cgroup=str(content["cgroup"]),
                server=ProcessId(
                    pid=int(content["server"]["pid"]), start_time=int(content["server"]["start_time"])
                ),
            )
        except (ValueError, TypeError, KeyError) as error:
            log.warning("a home's record is damaged", file=str(self._file(home_id)), error=repr(error))
            return None

    def write(self, home_id: str, record: HomeRecord) -> None:
        """Write a home's, in place of any."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        locked_file.write_json(
            self._file(home_id),
            {
                "identity": str(record.identity),
                "public": str(record.public),
                "mounts": [str(one) for one in record.mounts],
                "cgroup": record.cgroup,
                "server": {"pid": record.server.pid, "start_time": record.server.start_time},
            },
        )

    def remove(self, home_id: str) -> None:
        """Remove a home's; a no-op when there is none."""
        self._file(home_id).unlink(missing_ok=True)

    def _file(self, home_id: str) -> Path:
        return self._directory / f"{home_id}.json"
