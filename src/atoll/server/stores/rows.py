"""Rows to domain types and back; a row that makes no sense is named, not guessed at."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import RowMapping

from atoll.server.domain import egress, identity, ingress, volume
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import ProcessKilledForMemory
from atoll.server.domain.sandbox import EndReason, NamedRequest, OnDeadline, Pause, Sandbox, Status, Target
from atoll.server.domain.upkeep import (
    fall_from_plain,
    fall_to_plain,
    skip_from_plain,
    skip_to_plain,
    upkeep_from_plain,
    upkeep_to_plain,
)
from atoll.server.stores.database import unreadable


def sandbox_to_row(sandbox: Sandbox) -> dict[str, Any]:
    """Return the values of a sandbox's row, by column."""
    return {
        "id": sandbox.id,
        "team_id": sandbox.team_id,
        "template_id": sandbox.template_id,
        "template_alias": sandbox.template_alias,
        "target": sandbox.target.value,
        "status": sandbox.status.value,
        "cpus": sandbox.limits.cpus,
        "memory_bytes": sandbox.limits.memory_bytes,
        "processes": sandbox.limits.processes,
        "disk_bytes": sandbox.limits.disk_bytes,
        "egress": egress.to_plain(sandbox.egress),
        "ingress": ingress.to_plain(sandbox.ingress),
        "metadata": dict(sandbox.metadata),
        "env": dict(sandbox.env),
        "created_at": sandbox.created_at,
        "started_at": sandbox.started_at,
        "deadline": sandbox.deadline,
        "ended_at": sandbox.ended_at,
        "end_reason": sandbox.end_reason.value if sandbox.end_reason else None,
        "end_detail": sandbox.end_detail,
        "generation": sandbox.generation,
        "address": sandbox.address,
        "runtime": sandbox.runtime,
        "secured": sandbox.secured,
        "volumes": volume.to_plain(sandbox.volumes),
        "on_deadline": sandbox.on_deadline.value,
        "auto_resume": sandbox.auto_resume,
        "timeout_seconds": round(sandbox.timeout.total_seconds()),
        "tokens": identity.to_plain(sandbox.tokens),
        "checkpoint": sandbox.pause.checkpoint if sandbox.pause else None,
        "checkpoint_kind": sandbox.pause.kind.value if sandbox.pause else None,
        "paused_at": sandbox.pause.at if sandbox.pause else None,
        "pause_silent": sandbox.pause.silent if sandbox.pause else False,
        "request_key": sandbox.request.key if sandbox.request else None,
        "request_fingerprint": sandbox.request.fingerprint if sandbox.request else None,
        "upkeep": upkeep_to_plain(sandbox.upkeep),
        "fall": fall_to_plain(sandbox.fall),
        "snapshot_due": sandbox.snapshot_due,
        "snapshot_skip": skip_to_plain(sandbox.snapshot_skip),
        "idle_due": sandbox.idle_due,
    }


def sandbox_from_row(row: RowMapping) -> Sandbox:
    """
    Read a sandbox's row.

    Raises:
        InternalError: a value is none that this version writes.
    """
    try:
        return Sandbox(
            id=SandboxId(row["id"]),
            team_id=TeamId(row["team_id"]),
            template_id=TemplateId(row["template_id"]),
            template_alias=row["template_alias"],
            target=Target(row["target"]),
            status=Status(row["status"]),
            limits=Limits(
                cpus=row["cpus"],
                memory_bytes=row["memory_bytes"],
                processes=row["processes"],
                disk_bytes=row["disk_bytes"],
            ),
            egress=egress.from_plain(row["egress"]),
            ingress=ingress.from_plain(row["ingress"]),
            metadata=_strings(row["metadata"]),
            env=_strings(row["env"]),
            created_at=row["created_at"],
            started_at=row["started_at"],
            deadline=row["deadline"],
            ended_at=row["ended_at"],
            end_reason=EndReason(row["end_reason"]) if row["end_reason"] is not None else None,
            end_detail=row["end_detail"],
            generation=row["generation"],
            address=row["address"],
            runtime=row["runtime"],
            secured=row["secured"],
            volumes=volume.from_plain(row["volumes"]),
            on_deadline=OnDeadline(row["on_deadline"]),
            auto_resume=row["auto_resume"],
            timeout=timedelta(seconds=row["timeout_seconds"]),
            tokens=identity.from_plain(row["tokens"]),
            pause=_pause(row),
            request=_request(row),
            upkeep=upkeep_from_plain(row["upkeep"]),
            fall=fall_from_plain(row["fall"]),
            snapshot_due=row["snapshot_due"],
            snapshot_skip=skip_from_plain(row["snapshot_skip"]),
            idle_due=row["idle_due"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise unreadable(f"sandbox {row['id']}", error) from error


def _pause(row: RowMapping) -> Pause | None:
    if row["checkpoint"] is None:
        return None
    kind = CheckpointKind(row["checkpoint_kind"])
    return Pause(checkpoint=row["checkpoint"], kind=kind, at=row["paused_at"], silent=row["pause_silent"])


def _request(row: RowMapping) -> NamedRequest | None:
    if row["request_key"] is None:
        return None
    return NamedRequest(key=row["request_key"], fingerprint=row["request_fingerprint"])


def memory_kill_to_row(kill: ProcessKilledForMemory) -> dict[str, Any]:
    """Return the values of a row, by column."""
    return {
        "sandbox_id": kill.sandbox_id,
        "pid": kill.pid,
        "command": kill.command,
        "resident_bytes": kill.resident_bytes,
    }


def memory_kill_from_row(row: RowMapping) -> ProcessKilledForMemory:
    """Read a row about a process that was killed for memory."""
    return ProcessKilledForMemory(
        sandbox_id=SandboxId(row["sandbox_id"]),
        pid=row["pid"],
        command=row["command"],
        resident_bytes=row["resident_bytes"],
    )


def _strings(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"not an object of strings: {value!r:.100}")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise TypeError(f"not an object of strings: {value!r:.100}")
    return value
