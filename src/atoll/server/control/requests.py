"""
What the dialects ask of control, and what they get: plain frozen data.

A dialect parses its wire form into these and translates the answers back; no rule lives there.
Values are still the caller's: control checks them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.identity import WorkloadToken
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.ingress import IngressPolicy
from atoll.server.domain.keys import KeyKind
from atoll.server.domain.sandbox import OnDeadline, Sandbox, Status
from atoll.server.domain.team_limits import TeamLimits
from atoll.server.domain.upkeep import Upkeep


@dataclass(frozen=True, kw_only=True)
class Actor:
    """
    Who calls.

    Attributes:
        team_id: whose sandboxes the caller sees.
        key_id: of the key that was shown.
        key_name: the owner's word for it.
        kind: what may be done with it.
        limits: the team's own.
    """

    team_id: TeamId
    key_id: str
    key_name: str
    kind: KeyKind = KeyKind.API_KEY
    limits: TeamLimits = field(default_factory=TeamLimits)


@dataclass(frozen=True, kw_only=True)
class LimitsOverride:
    """The parts of a sandbox's size that differ from the template's; None: as the template says."""

    cpus: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class MountWish:
    """
    A volume that a sandbox is to have.

    Attributes:
        name: the volume's, or its id.
        path: where it is inside.
    """

    name: str
    path: str


@dataclass(frozen=True, kw_only=True)
class CreateSandbox:
    """
    The wish for a sandbox.

    Attributes:
        template: name or id, of a template or snapshot.
        timeout: from the moment the sandbox runs until it is killed.
        metadata: the caller's own words about it.
        env: for every command inside, above the template's.
        egress: what it may reach.
        ingress: who may reach it.
        secured: whether callers of the daemon must show the access token.
        limits: where it differs from the template.
        volumes: what it sees that outlives it.
        on_deadline: what happens when ``timeout`` is over.
        auto_resume: whether traffic wakes it, once it is paused.
        upkeep: how it is kept; ``timeout`` means nothing to one that is persistent.
        tokens: what it may prove to others that it is.
        request_key: the caller's name for this call: sent again, it gets the same sandbox; None: no name.
    """

    template: str
    timeout: timedelta
    metadata: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    ingress: IngressPolicy = field(default_factory=IngressPolicy)
    secured: bool = True
    limits: LimitsOverride = field(default_factory=LimitsOverride)
    volumes: tuple[MountWish, ...] = ()
    on_deadline: OnDeadline = OnDeadline.KILL
    auto_resume: bool = False
    upkeep: Upkeep = field(default_factory=Upkeep)
    tokens: tuple[WorkloadToken, ...] = ()
    request_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class SandboxPage:
    """
    A part of a list.

    Attributes:
        sandboxes: the rows, in the order that was asked for.
        next: what to give as ``Page.after`` for the next part; None: this was the last.
    """

    sandboxes: tuple[Sandbox, ...]
    next: tuple[datetime, SandboxId] | None


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where the edge finds a sandbox, None while it does not run yet or again, and whom it lets there."""

    sandbox_id: SandboxId
    address: str | None
    status: Status
    ingress: IngressPolicy = field(default_factory=IngressPolicy)
