"""
What happened in the lives of sandboxes, as facts for their owners, and which change of a row tells which.

A snapshot is told when it is ready, whoever wanted it: a caller, a schedule or a fork.

An event outlives its sandbox. Its plain form is E2B's: lists and webhooks show the same.
"""

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
from atoll.server.domain.sandbox import SLEEPING, Sandbox, Status
from atoll.server.domain.snapshot import Snapshot

# Of the form that E2B documents.
VERSION = "v1"
# Executions are named after sandbox and generation: the same one has the same name wherever it is asked for.
_EXECUTIONS = uuid.UUID("8c1f0a52-5b0e-4e55-9d5a-3f8a2a6f4f10")
# Created, and not ended.
_LIVES = SLEEPING | {Status.RUNNING}
# No machine of it runs, and its owner was told so.
_STANDING = frozenset({Status.PAUSED, Status.RESUMING})
# Its machine runs: a pause that does not succeed is not told.
_STOPPING = frozenset({Status.RUNNING, Status.PAUSING})
# What a killed sandbox was, where it did not run.
PAUSED = "paused"
_MIB = 1024 * 1024


class EventType(StrEnum):
    """What happened."""

    CREATED = "sandbox.lifecycle.created"
    UPDATED = "sandbox.lifecycle.updated"
    PAUSED = "sandbox.lifecycle.paused"
    RESUMED = "sandbox.lifecycle.resumed"
    KILLED = "sandbox.lifecycle.killed"
    CHECKPOINTED = "sandbox.lifecycle.checkpointed"


@dataclass(frozen=True, kw_only=True)
class Event:
    """
    One row.

    Attributes:
        id: a UUID; those of later events sort behind.
        type: what happened.
        team_id: whose.
        sandbox_id: to which sandbox.
        template_id: what that started from.
        generation: of the sandbox.
        at: when the row was changed that tells it.
        data: more about it, as JSON has it; None: nothing.
    """

    id: str
    type: EventType
    team_id: TeamId
    sandbox_id: SandboxId
    template_id: TemplateId
    generation: int
    at: datetime
    data: Mapping[str, Any] | None = None


def parse_type(untrusted: str) -> EventType:
    """
    Read a type of events.

    Raises:
        InvalidArgumentError: there is none of this name.
    """
    try:
        return EventType(untrusted)
    except ValueError:
        raise InvalidArgumentError(
            f"Unknown event type {untrusted[:64]!a}; there are {', '.join(EventType)}"
        ) from None


def told_by(old: Sandbox, new: Sandbox, at: datetime) -> Event | None:
    """Return what the change of a row tells; None: nothing that is for its owner."""
    found = _found(old, new, at)
    if found is None:
        return None
    kind, data = found
    return Event(
        id=new_event_id(at),
        type=kind,
        team_id=new.team_id,
        sandbox_id=new.id,
        template_id=new.template_id,
        generation=new.generation,
        at=at,
        data=data or None,
    )


def told_of_snapshot(snapshot: Snapshot, metadata: Mapping[str, str], at: datetime) -> Event:
    """Return what is told when a snapshot is ready; ``metadata`` is that of its sandbox."""
    return Event(
        id=new_event_id(at),
        type=EventType.CHECKPOINTED,
        team_id=snapshot.team_id,
        sandbox_id=snapshot.sandbox_id,
        template_id=snapshot.template_id,
        generation=snapshot.generation,
        at=at,
        data={**_words(metadata), "snapshot_id": snapshot.id},
    )


def _found(old: Sandbox, new: Sandbox, at: datetime) -> tuple[EventType, dict[str, Any]] | None:
    match old.status in _LIVES, new.status in _LIVES:
        case False, True:
            return EventType.CREATED, _words(new.metadata)
        # One that never ran was never created for its owner, and is not killed.
        case True, False:
            return EventType.KILLED, {
                **_words(new.metadata),
                "execution": _execution(old, at),
                **_reason(new),
                **({"state": PAUSED} if old.status in _STANDING else {}),
            }
        case True, True if old.status is not new.status:
            return _turned(old, new)
        case True, True if changes := _changes(old, new):
            return EventType.UPDATED, changes
        case _:
            return None


def _turned(old: Sandbox, new: Sandbox) -> tuple[EventType, dict[str, Any]] | None:
    if new.status is Status.PAUSED and old.status in _STOPPING:
        return EventType.PAUSED, {**_words(new.metadata), **_fell(new)}
    if new.status is Status.RUNNING and old.status is Status.RESUMING:
        return EventType.RESUMED, {**_words(new.metadata), **_restarted(old, new)}
    # It did not succeed.
    return None


def _fell(row: Sandbox) -> dict[str, Any]:
    """Say why it is to come back, where nobody had asked for a pause."""
    return {"reason": row.fall.reason} if row.is_falling and row.fall is not None else {}


def _restarted(old: Sandbox, new: Sandbox) -> dict[str, Any]:
    if not old.is_falling or new.fall is None:
        return {}
    return {"reason": new.fall.reason, "snapshot_id": new.fall.origin}


def _words(metadata: Mapping[str, str]) -> dict[str, Any]:
    return {"sandbox_metadata": dict(metadata)} if metadata else {}


def _reason(row: Sandbox) -> dict[str, Any]:
    return {"reason": row.end_reason.value} if row.end_reason else {}


def _execution(row: Sandbox, at: datetime) -> dict[str, Any]:
    began = row.started_at or row.created_at
    return {
        "started_at": timestamp(began),
        "vcpu_count": row.limits.cpus,
        "memory_mb": row.limits.memory_bytes // _MIB,
        "execution_time": max(round((at - began).total_seconds() * 1000), 0),
    }


def _changes(old: Sandbox, new: Sandbox) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if new.deadline != old.deadline:
        changes["set_timeout"] = timestamp(new.deadline)
    if new.egress != old.egress:
        # What they are now may hold secrets, and is asked for elsewhere.
        changes["set_network"] = True
    if new.snapshot_skip is not None and new.snapshot_skip != old.snapshot_skip:
        changes["snapshot_skipped"] = new.snapshot_skip.why
    if new.fall is not None and new.fall.problem is not None and new.fall != old.fall:
        changes["restart_failed"] = new.fall.problem
    return changes


def new_event_id(at: datetime) -> str:
    """Make an id that no other event has: a UUID of version 7, its time to a quarter of a microsecond."""
    micros = round(at.timestamp() * 1_000_000)
    millis, rest = divmod(micros, 1000)
    value = millis << 80 | 0x7 << 76 | (rest * 4096 // 1000) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def timestamp(at: datetime) -> str:
    """Write a time as RFC 3339 has it, in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def plain(event: Event) -> dict[str, Any]:
    """Write an event as E2B's API has it."""
    return {
        "version": VERSION,
        "id": event.id,
        "type": event.type.value,
        "eventData": dict(event.data) if event.data is not None else None,
        "sandboxBuildId": event.template_id,
        "sandboxExecutionId": str(uuid.uuid5(_EXECUTIONS, f"{event.sandbox_id} {event.generation}")),
        "sandboxId": event.sandbox_id,
        "sandboxTeamId": event.team_id,
        "sandboxTemplateId": event.template_id,
        "timestamp": timestamp(event.at),
    }
