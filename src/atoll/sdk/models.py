"""What calls of the SDK return: frozen data, no connection behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from atoll.sdk.network import Incoming


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    The size of a sandbox.

    Attributes:
        cpus: processor time, in cores.
        memory_bytes: what the sandbox sees as its memory.
        processes: processes and threads inside.
        disk_bytes: what may be written over the template.
    """

    cpus: float
    memory_bytes: int
    processes: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """
    A volume that a sandbox sees.

    Attributes:
        name: the volume's, when the sandbox was created.
        path: where it is inside.
    """

    volume_id: str
    name: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Fall:
    """
    A sandbox ended without being asked, and was to come back.

    Attributes:
        reason: why it ended, in one word.
        at: when.
        snapshot_id: what it comes back from; None: a pause, or its template.
        times: the how manieth time in a row.
        back_at: when it ran again; None: not yet.
        problem: why it stays paused; None: it does not.
    """

    reason: str
    at: datetime
    snapshot_id: str | None
    times: int
    back_at: datetime | None
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class SandboxInfo:
    """
    A sandbox, as the server knows it.

    Attributes:
        id: never used twice.
        template: the name that it was created with.
        template_id: the build that it started from.
        status: "creating", "running", "pausing", "paused", "resuming", "killing", "killed" or "failed".
        limits: its size.
        internet: whether it reaches the internet.
        volumes: what it sees that outlives it.
        metadata: the caller's own words about it.
        created_at: when it was asked for.
        started_at: when it took its first command; None before.
        deadline: when it is killed or paused, if it runs then; None: it is persistent.
        on_deadline: which of both: "kill", "pause" or "pause_files".
        auto_resume: whether a request for it wakes it while it is paused.
        ended_at: when it was gone; None before.
        end_reason: why it ended, in one word; None before.
        runtime: what isolates it: "gvisor".
        domain: a port of it is at ``http://<port>-<id>.<domain>``.
        generation: grows with each resume and restart.
        persistent: whether it comes back after the server's machine was away.
        fall: the last time that it ended without being asked and was to come back; None: never.
        incoming: who reaches its ports.
    """

    id: str
    template: str
    template_id: str
    status: str
    limits: Limits
    internet: bool
    volumes: tuple[VolumeMount, ...]
    metadata: Mapping[str, str]
    created_at: datetime
    started_at: datetime | None
    deadline: datetime | None
    on_deadline: str
    auto_resume: bool
    ended_at: datetime | None
    end_reason: str | None
    runtime: str
    domain: str
    generation: int = 1
    persistent: bool = False
    fall: Fall | None = None
    incoming: Incoming = field(default_factory=Incoming)


@dataclass(frozen=True, kw_only=True)
class MemoryKill:
    """
    A process inside that was killed, because the sandbox used more memory than it has.

    Attributes:
        resident_bytes: what it held.
    """

    pid: int
    command: str
    resident_bytes: int


@dataclass(frozen=True, kw_only=True)
class Metric:
    """
    What a sandbox used up to a moment.

    Attributes:
        at: when it was read.
        cores: processors that were busy with it, on average, since the metric before.
        memory_bytes: resident, without page cache.
        cache_bytes: page cache.
        disk_bytes: written over the template.
    """

    at: datetime
    cores: float
    memory_bytes: int
    cache_bytes: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """
    A line of a sandbox's log. What its guest says comes from inside: do not trust it.

    Attributes:
        level: debug, info, warn or error.
        fields: facts by name.
    """

    at: datetime
    level: str
    message: str
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """
    What a sandbox uses, read from outside, without waking it.

    Attributes:
        cpu_seconds: since its start.
        memory_bytes: resident, without page cache.
        disk_bytes: written over the template.
    """

    cpu_seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class TemplateInfo:
    """
    What sandboxes start from.

    Attributes:
        limits: the size of sandboxes that name none.
        default_user: who runs commands that name nobody.
    """

    id: str
    name: str
    built_at: datetime
    limits: Limits
    default_user: str


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """
    What a sandbox was at one moment.

    Attributes:
        name: of those that were given one name, only the newest has it.
        sandbox_id: what it was taken of; that may be gone.
        template: what that was created from.
        memory: whether programs go on in what is created from it; else it boots.
        size_bytes: on the server's disk.
        scheduled: whether it was taken by itself, and goes when there are newer ones.
    """

    id: str
    name: str | None
    sandbox_id: str
    template: str
    memory: bool
    limits: Limits
    size_bytes: int
    created_at: datetime
    scheduled: bool = False


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """
    Something on a server that nobody needs.

    Attributes:
        kind: ``checkpoint``, ``half-written``, ``runs``, ``guestd``, ``runsc`` or ``template``.
        name: its own; of runs, how many they are.
        size_bytes: what it takes.
    """

    kind: str
    name: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Collection:
    """
    What nobody needed on a server.

    Attributes:
        dry_run: whether it was only looked for.
        size_bytes: what all of it takes, or took.
        leftovers: what it is.
        problems: what could not be looked at or removed, in words.
    """

    dry_run: bool
    size_bytes: int
    leftovers: tuple[Leftover, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PoolInfo:
    """
    Machines of one template and size that wait to become sandboxes.

    Attributes:
        template: the template's name.
        limits: the size.
        ready: how many wait.
        ids: of the sandboxes that those will be.
        wanted: how many should.
        hits: creates since the server's start that found one.
        misses: creates that found none, and restored or booted one.
        oldest_since: since when the one waits that waits longest; None: none waits.
        machine_bytes: what one takes of the host's memory.
        problem: why none can be made at the moment; None: nothing is wrong.
    """

    template: str
    limits: Limits
    ready: int
    ids: tuple[str, ...]
    wanted: int
    hits: int
    misses: int
    oldest_since: datetime | None
    machine_bytes: int
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class VolumeInfo:
    """
    Files that outlive sandboxes.

    Attributes:
        id: never used twice.
        name: one of its kind in the team.
        size_bytes: what it holds at most.
    """

    id: str
    name: str
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class SecretInfo:
    """
    What is known of a secret; its value is not.

    Attributes:
        name: in lower case.
        version: 1, and one more with each value.
        metadata: the owner's own words about it.
        updated_at: when it got its value.
    """

    id: str
    name: str
    version: int
    metadata: Mapping[str, str]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class TeamLimits:
    """
    Limits of a team's own; None: as the server has it for everybody.

    Attributes:
        max_sandboxes: its sandboxes that are neither paused nor ended; 0: it starts none.
        max_cpus: cores of one of its sandboxes.
        max_memory_bytes: memory of one of its sandboxes.
        requests_per_second: calls of the API with all of its keys together, on average over the server's
            window of time; without it each key is counted alone.
    """

    max_sandboxes: int | None = None
    max_cpus: float | None = None
    max_memory_bytes: int | None = None
    requests_per_second: int | None = None


@dataclass(frozen=True, kw_only=True)
class TeamInfo:
    """
    Who owns sandboxes, volumes, secrets and keys.

    Attributes:
        limits: its own.
        deleting: it goes, with all that is its own; nothing new is made for it.
    """

    id: str
    name: str
    created_at: datetime
    limits: TeamLimits = field(default_factory=TeamLimits)
    deleting: bool = False


@dataclass(frozen=True, kw_only=True)
class KeyInfo:
    """
    What is kept of a key.

    Attributes:
        kind: ``api_key``, or ``access_token``: that makes and revokes keys of its team too.
        hint: some of its characters, so that it is known again.
        last_used_at: to the minute; None: never.
    """

    id: str
    team_id: str
    name: str
    kind: str
    hint: str
    created_at: datetime
    last_used_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """
    A key that was just made.

    Attributes:
        key: the key itself, which nobody can read again; kept out of the text of this object.
    """

    info: KeyInfo
    key: str = field(repr=False)


class Stream(StrEnum):
    """Where output came from."""

    STDOUT = "stdout"
    STDERR = "stderr"
    PTY = "pty"


@dataclass(frozen=True, kw_only=True)
class Output:
    """A piece of a command's output, as it came: it may end inside of a line, or of a character."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """
    A command that runs.

    Attributes:
        pid: inside the sandbox.
        argv: the program and its arguments.
        cwd: where it was started; None: the user's home.
    """

    pid: int
    argv: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class FileType(StrEnum):
    """What an entry of a directory is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """
    An entry of a sandbox's filesystem, or of a volume's. All of it comes from inside: do not trust the names.

    Attributes:
        size: in bytes.
        mode: permission bits.
        permissions: as ``ls -l`` shows them.
        owner: by name; in a volume, which knows no names, by number, as ``group`` is.
        symlink_target: where a link points; None for others.
    """

    name: str
    path: str
    type: FileType
    size: int = 0
    mode: int = 0
    permissions: str = ""
    owner: str = ""
    group: str = ""
    modified_at: datetime | None = None
    symlink_target: str | None = None


class FileChange(StrEnum):
    """What happened to a file."""

    CREATE = "create"
    WRITE = "write"
    REMOVE = "remove"
    RENAME = "rename"
    CHMOD = "chmod"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class FileEvent:
    """Something that happened in a watched directory; ``name`` is relative to it."""

    name: str
    change: FileChange
