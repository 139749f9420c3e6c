"""
How a sandbox is kept: whether it ends by itself, what it comes back from, and when it is looked after.

The wish stands in its row from the start; what came of it, and when it is looked at next, changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

# Why one "falls" that was written down before its machine went, for the next start to resume.
PARKED = "taken_down"
# The deadline of a sandbox that has none.
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Restart(StrEnum):
    """What happens to a sandbox whose machine ends without being asked."""

    # It has failed.
    NEVER = "never"
    # It comes back from its last snapshot, under its own id; without a snapshot it has failed, unless it is
    # persistent.
    FROM_SNAPSHOT = "from_snapshot"


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """
    The wish.

    Attributes:
        persistent: it has no deadline, and comes back after its host was away.
        restart: what happens when its machine alone ends.
        snapshot_every: time between snapshots that are taken by themselves; None: none are.
        keep_snapshots: how many of those are kept, the newest; what a person named is not counted.
        idle_timeout: how long nobody calls it until it is paused, or ended; None: it may idle.
    """

    persistent: bool = False
    restart: Restart = Restart.NEVER
    snapshot_every: timedelta | None = None
    keep_snapshots: int = 3
    idle_timeout: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class Fall:
    """
    The last time that a machine ended and its sandbox was to come back.

    Attributes:
        reason: why it ended, in a word of ``EndReason``, or ``PARKED``.
        at: when that was seen.
        origin: the snapshot that it comes back from; None: what a pause kept, or its template.
        times: the how manieth in a row, from 1.
        back_at: when it ran again; None: not yet.
        problem: why the last try to bring it back failed, and no other follows; None: it did not.
    """

    reason: str
    at: datetime
    origin: str | None = None
    times: int = 1
    back_at: datetime | None = None
    problem: str | None = None

    @property
    def is_parked(self) -> bool:
        """Whether all that it had was written down before its machine went."""
        return self.reason == PARKED


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A snapshot that was due and could not be taken: when, and why."""

    at: datetime
    why: str


def upkeep_to_plain(upkeep: Upkeep) -> dict[str, Any]:
    """Write a wish as JSON has it; times in seconds."""
    return {
        "persistent": upkeep.persistent,
        "restart": upkeep.restart.value,
        "snapshot_every": _seconds(upkeep.snapshot_every),
        "keep_snapshots": upkeep.keep_snapshots,
        "idle_timeout": _seconds(upkeep.idle_timeout),
    }


def upkeep_from_plain(plain: Mapping[str, Any]) -> Upkeep:
    """Read what ``upkeep_to_plain`` wrote; {}: nothing was wished."""
    if not plain:
        return Upkeep()
    return Upkeep(
        persistent=plain["persistent"],
        restart=Restart(plain["restart"]),
        snapshot_every=_time(plain["snapshot_every"]),
        keep_snapshots=plain["keep_snapshots"],
        idle_timeout=_time(plain["idle_timeout"]),
    )


def fall_to_plain(fall: Fall | None) -> dict[str, Any] | None:
    """Write a fall as JSON has it."""
    if fall is None:
        return None
    return {
        "reason": fall.reason,
        "at": fall.at.isoformat(),
        "origin": fall.origin,
        "times": fall.times,
        "back_at": fall.back_at.isoformat() if fall.back_at else None,
        "problem": fall.problem,
    }


def fall_from_plain(plain: Mapping[str, Any] | None) -> Fall | None:
    """Read what ``fall_to_plain`` wrote."""
    if plain is None:
        return None
    return Fall(
        reason=plain["reason"],
        at=datetime.fromisoformat(plain["at"]),
        origin=plain["origin"],
        times=plain["times"],
        back_at=datetime.fromisoformat(plain["back_at"]) if plain["back_at"] else None,
        problem=plain["problem"],
    )


def skip_to_plain(skip: Skip | None) -> dict[str, Any] | None:
    """Write a snapshot that was not taken as JSON has it."""
    return None if skip is None else {"at": skip.at.isoformat(), "why": skip.why}


def skip_from_plain(plain: Mapping[str, Any] | None) -> Skip | None:
    """Read what ``skip_to_plain`` wrote."""
    return None if plain is None else Skip(at=datetime.fromisoformat(plain["at"]), why=plain["why"])


def _seconds(time: timedelta | None) -> int | None:
    return None if time is None else round(time.total_seconds())


def _time(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
