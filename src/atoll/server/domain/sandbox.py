"""
A sandbox, as data: what it should be (target), what it is (status), and why it ended.

Verbs live in control, one file per concern.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.identity import WorkloadToken
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
from atoll.server.domain.ingress import IngressPolicy
from atoll.server.domain.limits import Limits
from atoll.server.domain.upkeep import NEVER, Fall, Skip, Upkeep
from atoll.server.domain.volume import VolumeMount


class Target(StrEnum):
    """What a sandbox should be."""

    RUNNING = "running"
    PAUSED = "paused"
    KILLED = "killed"


class Status(StrEnum):
    """
    What a sandbox is.

    creating → running → killing → killed, and from anywhere → failed.
    running → pausing → paused → resuming → running; what does not succeed goes back.
    Killed and failed are final: nothing of the sandbox is left on the machine.
    """

    CREATING = "creating"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    KILLING = "killing"
    KILLED = "killed"
    FAILED = "failed"


# Of a sandbox that is paused, is about to be, or was until now: there is, or may be, a checkpoint of it.
SLEEPING = frozenset({Status.PAUSING, Status.PAUSED, Status.RESUMING})
FINAL = frozenset({Status.KILLED, Status.FAILED})


class EndReason(StrEnum):
    """Why a sandbox is no longer there."""

    # Somebody asked for it.
    KILLED = "killed"
    # Its deadline passed.
    DEADLINE = "deadline"
    # Nobody called it for as long as it may idle.
    IDLE = "idle"
    # It did not come up; the row says at which step.
    START_FAILED = "start_failed"
    # The server stopped while it was being created.
    START_INTERRUPTED = "start_interrupted"
    # It used more memory than its wall allows, and the kernel ended it.
    OOM = "oom"
    # It lifted its inner process limit and met the outer one.
    PROCESS_LIMIT = "process_limit"
    # Its first process ended: guest root killed it, or it crashed.
    GUEST_ENDED = "guest_ended"
    # The process that isolates it (gVisor's sentry or gofer) ended.
    RUNTIME_ENDED = "runtime_ended"
    # It did not answer any more and was killed.
    RUNTIME_HUNG = "runtime_hung"
    # It runs, but its guestd answered nobody any more: it was stopped, or hangs.
    GUEST_HUNG = "guest_hung"
    # It was gone when the server came back: the machine restarted, say.
    LOST = "lost"


# Asked for; every other reason means that the sandbox failed.
WANTED = frozenset({EndReason.KILLED, EndReason.DEADLINE, EndReason.IDLE})
# Its machine ended, which it can come back from.
FALLS = frozenset(
    {
        EndReason.OOM,
        EndReason.PROCESS_LIMIT,
        EndReason.GUEST_ENDED,
        EndReason.RUNTIME_ENDED,
        EndReason.RUNTIME_HUNG,
        EndReason.LOST,
    }
)


class OnDeadline(StrEnum):
    """What happens to a running sandbox at its deadline."""

    KILL = "kill"
    PAUSE = "pause"
    # A later resume boots.
    PAUSE_FILES = "pause_files"


@dataclass(frozen=True, kw_only=True)
class Pause:
    """
    What a paused sandbox comes back from.

    Attributes:
        checkpoint: its name; never used twice.
        kind: what is in it.
        at: when the pause was begun.
        silent: whether its guest did not answer then: with its memory, it may not again.
    """

    checkpoint: str
    kind: CheckpointKind
    at: datetime
    silent: bool = False


@dataclass(frozen=True, kw_only=True)
class NamedRequest:
    """
    A create that may be sent twice and is done once.

    Attributes:
        key: the caller's name for it, its own within the team.
        fingerprint: of what was asked for: another wish under the same key is a mistake.
    """

    key: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """
    One row.

    Attributes:
        id: never used twice.
        team_id: who owns it.
        template_id: what it started from.
        template_alias: the name that the caller gave for it, without a tag.
        target: what it should be.
        status: what it is.
        limits: its size.
        egress: what it may reach.
        ingress: who may reach it.
        metadata: the caller's own words about it.
        env: for every command inside.
        created_at: when the row was written.
        started_at: when it answered first; None before.
        deadline: when it is killed, or paused; ``NEVER`` for one that is persistent.
        ended_at: when it reached a final status; None before.
        end_reason: why it ends or ended; written with the status killing, None before.
        end_detail: facts about the end, for operators.
        generation: grows with every start, claim, resume and fork.
        address: where it is reached from the host, IPv4; None when nowhere.
        runtime: the runtime's name, "gvisor".
        secured: whether callers of the daemon must show an access token.
        volumes: what it sees that outlives it, and where.
        on_deadline: what happens then.
        auto_resume: whether traffic wakes it.
        timeout: how long it was to run at first; what wakes it gives it as much again.
        pause: what it comes back from; None unless it is pausing, paused or resuming.
        tokens: what it may prove to others that it is.
        request: the create that it answers, if its caller named it; None: not named.
        upkeep: how it is kept.
        fall: the last time that its machine ended and it was to come back; None: never.
        snapshot_due: when a snapshot of it is taken by itself; None: never. For while it runs; what was left
            of that at a pause, is left after it.
        snapshot_skip: the last such snapshot, if it could not be taken; None: it was, or none was due.
        idle_due: when is looked whether it idles; None: never. For while it runs.
    """

    id: SandboxId
    team_id: TeamId
    template_id: TemplateId
    template_alias: str
    target: Target
    status: Status
    limits: Limits
    egress: EgressPolicy
    ingress: IngressPolicy = field(default_factory=IngressPolicy)
    metadata: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime
    started_at: datetime | None = None
    deadline: datetime
    ended_at: datetime | None = None
    end_reason: EndReason | None = None
    end_detail: str | None = None
    generation: int = 1
    address: str | None = None
    runtime: str
    secured: bool = True
    volumes: tuple[VolumeMount, ...] = ()
    on_deadline: OnDeadline = OnDeadline.KILL
    auto_resume: bool = False
    timeout: timedelta = timedelta(minutes=5)
    pause: Pause | None = None
    tokens: tuple[WorkloadToken, ...] = ()
    request: NamedRequest | None = None
    upkeep: Upkeep = field(default_factory=Upkeep)
    fall: Fall | None = None
    snapshot_due: datetime | None = None
    snapshot_skip: Skip | None = None
    idle_due: datetime | None = None

    @property
    def is_falling(self) -> bool:
        """Whether its machine ended, and it is to come back and has not yet."""
        return self.fall is not None and self.fall.back_at is None


def set_going(row: Sandbox, now: datetime, lifetime: timedelta) -> Sandbox:
    """
    Return the row of a sandbox that begins to run, for so long, with the times that follow from that.

    Args:
        row: with the pause that it comes back from.
        now: when.
        lifetime: for how long.
    """
    every, idle = row.upkeep.snapshot_every, row.upkeep.idle_timeout
    if every is not None and row.pause is not None and row.snapshot_due is not None:
        # What it ran before counts: one that sleeps often would never have a snapshot.
        every = min(every, max(row.snapshot_due - row.pause.at, timedelta(0)))
    return replace(
        row,
        deadline=NEVER if row.upkeep.persistent else now + lifetime,
        snapshot_due=now + every if every is not None else None,
        idle_due=now + idle if idle is not None else None,
    )


def pausing_at_deadline(row: Sandbox) -> Sandbox:
    """Return the row of a sandbox that is paused at its deadline; one that is anyway keeps how."""
    return replace(row, on_deadline=OnDeadline.PAUSE) if row.on_deadline is OnDeadline.KILL else row
