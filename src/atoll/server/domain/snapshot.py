"""
A snapshot: what a running sandbox was at one moment, kept until somebody deletes it.

Sandboxes are created from it as from a template, any number of times.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.template import without_tag

SnapshotId = NewType("SnapshotId", str)

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Longer references name nothing; they would only make the error long.
MOST_REFERENCE = 256


class SnapshotStatus(StrEnum):
    """What a snapshot is."""

    # Being written, or a fork's, for its children only: nobody can use it, and the next start of the server
    # removes it.
    MAKING = "making"
    READY = "ready"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """
    One row. Its checkpoint has the id as its name.

    Attributes:
        name: its owner's word for it; of those that were given one name, only the newest has it.
        sandbox_id: what it was taken of; that may be gone.
        template_id: what that was made from; its disk is written over it.
        template_alias: the name that was given for it.
        kind: whether memory is in it.
        generation: of the sandbox when it was taken; what is created from it is newer.
        limits: the sandbox's size; another disk cannot be given.
        env: the sandbox's, for what is created from it.
        size_bytes: of what is on the host's disk; 0 while it is being written.
        scheduled: whether it was taken by itself; such ones go when there are newer ones.
    """

    id: SnapshotId
    team_id: TeamId
    name: str | None = None
    sandbox_id: SandboxId
    template_id: TemplateId
    template_alias: str
    kind: CheckpointKind
    generation: int
    limits: Limits
    env: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    status: SnapshotStatus
    created_at: datetime
    scheduled: bool = False


def new_snapshot_id() -> SnapshotId:
    """Make an id that no other snapshot has: "s" and 20 of [a-z0-9]."""
    return SnapshotId("s" + "".join(secrets.choice(_ALPHABET) for _ in range(20)))


def check_name(untrusted: str) -> str:
    """
    Check a snapshot's name.

    Raises:
        InvalidArgumentError: not 1 to 64 of [a-z0-9_-], beginning with a letter or digit.
    """
    if not _NAME.fullmatch(untrusted):
        raise InvalidArgumentError(
            "The name of a snapshot must have 1 to 64 of a-z, 0-9, _ and -, a letter or digit first",
            details=f"{untrusted[:64]!r}",
        )
    return untrusted


def bare_reference(untrusted: str, team_id: TeamId) -> str:
    """
    Drop what E2B's clients put around a name or id of this team: ``team/name:default``.

    What names another team stays as it is, and is no name: else it would quietly mean this team's own.
    """
    team, slash, name = untrusted[:MOST_REFERENCE].partition("/")
    if not slash:
        name = team
    elif team != team_id:
        return untrusted
    return without_tag(name)


def may_be_reference(bare: str) -> bool:
    """Say whether this can be a snapshot's name, or its id, which has the same form."""
    return _NAME.fullmatch(bare) is not None
