"""
Who holds which slot, on disk: one small file for each sandbox in <home>/run/slots/.

They need to survive a kill of the server, not a restart of the machine, after which no slot is left anyway.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from atoll.server.domain.egress import EgressPolicy, from_plain, to_plain
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.host import locked_file

log = structlog.get_logger(__name__)

_NEXT = "next"


@dataclass(frozen=True, kw_only=True)
class Record:
    """
    A held slot.

    Attributes:
        number: the slot's.
        egress: what its sandbox may reach.
    """

    number: int
    egress: EgressPolicy


class Records:
    """The files. Its methods block, for parts of a millisecond."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> dict[SandboxId, Record]:
        """Read all; a damaged one is removed: its slot then belongs to nobody, and is closed."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: dict[SandboxId, Record] = {}
        for file in self._directory.glob("i*.json"):
            try:
                content = locked_file.read_json(file)
                if not isinstance(content, dict):
                    raise TypeError("not an object")
                found[parse_sandbox_id(file.stem)] = Record(
                    number=int(content["number"]), egress=from_plain(_policy(content))
                )
            except (ValueError, TypeError, KeyError, InvalidArgumentError) as error:
                log.warning("a slot's record is damaged, and removed", file=str(file), error=repr(error))
                file.unlink()
        return found

    def write(self, sandbox_id: SandboxId, record: Record) -> None:
        """Write down who holds a slot."""
        content = {"number": record.number, "egress": to_plain(record.egress)}
        locked_file.write_json(self._file(sandbox_id), content)

    def remove(self, sandbox_id: SandboxId) -> None:
        """Remove a record; a no-op when there is none."""
        self._file(sandbox_id).unlink(missing_ok=True)

    def next_number(self) -> int:
        """Read where the search for a free number goes on; 1 at first."""
        try:
            return max(1, int((self._directory / _NEXT).read_text()))
        except (FileNotFoundError, ValueError):
            return 1

    def set_next_number(self, number: int) -> None:
        """Write it down: a sandbox's address is not to be another's right after a restart."""
        (self._directory / _NEXT).write_text(str(number))

    def clear(self) -> None:
        """Remove all of it."""
        for file in self._directory.glob("*"):
            file.unlink(missing_ok=True)
        if self._directory.is_dir():
            self._directory.rmdir()

    def _file(self, sandbox_id: SandboxId) -> Path:
        return self._directory / f"{sandbox_id}.json"


def _policy(content: Mapping[str, Any]) -> Mapping[str, Any]:
    # Up to 0.1 the one word stood alone.
    policy = content["egress"] if "egress" in content else {"internet": content["internet"]}
    if not isinstance(policy, dict):
        raise TypeError("not a policy")
    return policy
