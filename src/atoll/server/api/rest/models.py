"""Requests and answers of our own API, with the words that its documentation shows."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

from atoll.server.api.fields import Flag, Name, Seconds, Text, Texts
from atoll.server.domain.errors import Code
from atoll.server.domain.sandbox import EndReason, OnDeadline, Status

_EXAMPLE_ID = "i3k9d0q2mz7w1x5c8v4bn"


class Closed(BaseModel):
    """A request: a field that we do not know is an error, not a wish that is dropped."""

    model_config = ConfigDict(extra="forbid")


class LimitsWish(Closed):
    """The size of a sandbox; what is left out comes from its template."""

    cpus: StrictFloat | StrictInt | None = Field(
        default=None, description="Processor time, in cores.", examples=[0.5]
    )
    memory_bytes: StrictInt | None = Field(default=None, description="What the sandbox sees as its memory.")
    processes: StrictInt | None = Field(default=None, description="Processes and threads inside.")
    disk_bytes: StrictInt | None = Field(default=None, description="What may be written over the template.")


class ProxyTLS(Closed):
    """How a proxy proves who it is."""

    server_name: Text = Field(default="", description="In its certificate; empty: the host of its address.")
    ca_cert: Text = Field(
        default="", description="Authorities in PEM form, in place of the host's. Never shown."
    )


class Proxy(Closed):
    """A SOCKS5 proxy."""

    address: Text = Field(examples=["proxy.example.com:1080"])
    username: Text = ""
    password: Text = Field(default="", description="Never shown.")
    tls: ProxyTLS | None = Field(default=None, description="null: it is spoken to in the clear.")


class Network(Closed):
    """Which parts of the internet a sandbox reaches. What is allowed wins over what is denied."""

    allow_out: list[Text] = Field(
        default=[], description="Addresses and networks.", examples=[["198.51.100.0/24"]]
    )
    deny_out: list[Text] = Field(
        default=[],
        description="Addresses and networks; 0.0.0.0/0 is everything, IPv6 too.",
        examples=[["0.0.0.0/0"]],
    )
    dns_servers: list[Text] = Field(default=[], description="IPv4 addresses of name servers.")
    headers: dict[Text, Texts] = Field(
        default={},
        description="Headers that requests to a name, or to all below it, get on their way; "
        "${e2b.secrets.NAME} stands for a secret.",
        examples=[{"api.example.com": {"Authorization": "Bearer ${e2b.secrets.example}"}}],
    )
    proxy: Proxy | None = Field(default=None, description="What all TCP goes through, after all this.")


class SetNetwork(Network):
    """Replaces all network rules of a running sandbox."""

    internet: Flag = Field(default=True, description="false is the same as to deny 0.0.0.0/0.")


class Incoming(Closed):
    """Who reaches the ports of a sandbox, and how its programs are asked; the daemon's port is apart."""

    public: Flag = Field(
        default=True,
        description="Whether anybody does who knows the host name; else the traffic_token must be shown as "
        "E2B-Traffic-Access-Token.",
    )
    mask_host: Text = Field(
        default="",
        description="What programs see as Host; ${PORT} is the port.",
        examples=["localhost:${PORT}"],
    )
    https_ports: list[StrictInt] = Field(
        default=[], description="Where programs speak HTTPS; certificates are not checked."
    )


class VolumeMount(Closed):
    """A volume, and where a sandbox sees it."""

    volume: Name = Field(description="Name or id.", examples=["notes"])
    path: Text = Field(
        description="Clean and absolute; made if it is not there. Not where the system is.",
        examples=["/data"],
    )


class CreateSandbox(Closed):
    """The wish for a sandbox."""

    template: Name = Field(default="base", description="Name or id of a template.", examples=["base"])
    timeout_seconds: Annotated[Seconds, Field(gt=0)] = Field(
        default=300, description="From the moment the sandbox runs until its deadline.", examples=[300]
    )
    on_deadline: OnDeadline = Field(
        default=OnDeadline.KILL,
        description="What happens then; after pause_files, which keeps no memory, a resume boots.",
    )
    auto_resume: Flag = Field(
        default=False, description="Whether a request for it wakes it while it is paused, and waits for that."
    )
    metadata: Texts = Field(default={}, description="Your own words about it; lists can be filtered by them.")
    env: Texts = Field(default={}, description="Environment of every command inside.")
    internet: Flag = Field(
        default=True,
        description="Whether it reaches the internet. The host, other sandboxes, private ranges and metadata "
        "addresses are never reachable.",
    )
    network: Network = Network()
    incoming: Incoming = Incoming()
    secured: Flag = Field(
        default=True, description="Whether callers of its daemon must show the access token."
    )
    limits: LimitsWish = LimitsWish()
    volumes: list[VolumeMount] = Field(
        default=[], description="What it sees that outlives it, 16 at most; each at a path of its own."
    )
    persistent: Flag = Field(
        default=False,
        description="It has no deadline, and comes back after the server's machine was away: from its last "
        "snapshot, or else anew from its template. timeout_seconds means nothing.",
    )
    restart: Literal["never", "from_snapshot"] | None = Field(
        default=None,
        description="What happens when it ends without being asked: it has failed, or comes back from its "
        "last snapshot. null: from_snapshot if it is persistent, else never.",
    )
    snapshot_every_seconds: Seconds | None = Field(
        default=None, description="Time between snapshots that are taken by themselves.", examples=[600]
    )
    keep_snapshots: StrictInt = Field(default=3, description="How many of those are kept, the newest.")
    idle_timeout_seconds: Seconds | None = Field(
        default=None,
        description="How long nobody calls it until it is killed, or paused if it is persistent or is paused "
        "at its deadline.",
        examples=[300],
    )

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"template": "base", "timeout_seconds": 300, "metadata": {"user": "ada"}}]
        },
    )


class SetTimeout(Closed):
    """A new deadline, counted from now."""

    timeout_seconds: Annotated[Seconds, Field(ge=0)] = Field(description="0: now.", examples=[600])
    extend_only: Flag = Field(default=False, description="Leave a deadline that is later than this as it is.")


class PauseSandbox(Closed):
    """What to keep of a sandbox that is paused."""

    memory: Flag = Field(default=True, description="False: files only; a resume boots.")


class ResumeSandbox(Closed):
    """How long a sandbox runs from now on, at least."""

    timeout_seconds: Annotated[Seconds, Field(gt=0)] = Field(examples=[300])
    memory: Flag = Field(default=True, description="False: boot it from its files, whatever was kept.")


class Limits(BaseModel):
    """The size of a sandbox."""

    cpus: float
    memory_bytes: int
    processes: int
    disk_bytes: int


class MountedVolume(BaseModel):
    """A volume that a sandbox sees."""

    volume_id: str
    name: str = Field(description="At the time of the create.")
    path: str


class Fall(BaseModel):
    """A sandbox ended without being asked, and was to come back."""

    reason: str = Field(examples=["runtime_ended"])
    at: datetime
    snapshot_id: str | None = Field(description="What it comes back from; null: a pause, or its template.")
    times: int = Field(description="The how manieth time in a row.")
    back_at: datetime | None = Field(description="When it ran again.")
    problem: str | None = Field(description="Why it stays paused.")


class Sandbox(BaseModel):
    """A sandbox."""

    id: str = Field(examples=[_EXAMPLE_ID])
    template: str = Field(description="The name that the create gave.", examples=["base"])
    template_id: str = Field(description="The build that it started from.", examples=["base-3f1c9a27d0b4"])
    status: Status
    limits: Limits
    internet: bool
    network: Network
    incoming: Incoming
    volumes: list[MountedVolume]
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None = Field(description="When it took its first command.")
    deadline: datetime | None = Field(
        description="When it is killed or paused, if it runs then; null: it is persistent."
    )
    on_deadline: OnDeadline
    auto_resume: bool
    ended_at: datetime | None
    end_reason: EndReason | None = Field(description="Why it is no longer there.")
    generation: int = Field(description="Grows with each resume and restart.")
    persistent: bool
    restart: Literal["never", "from_snapshot"]
    snapshot_every_seconds: int | None
    keep_snapshots: int
    idle_timeout_seconds: int | None
    fall: Fall | None = Field(description="The last time that it ended and was to come back.")
    runtime: str = Field(examples=["gvisor"])
    domain: str = Field(
        description="A port of the sandbox is at <port>-<id>.<domain>.", examples=["localhost:49980"]
    )
    access_token: str | None = Field(
        description="For the sandbox's daemon, as X-Access-Token; null when it is not secured, in lists, and "
        "when the sandbox is no longer there."
    )
    traffic_token: str | None = Field(
        description="For the sandbox's ports when they are not public; null where access_token is."
    )


class SandboxPage(BaseModel):
    """A part of a list."""

    sandboxes: list[Sandbox]
    next_page_token: str | None = Field(
        description="Give it as page_token for the next part; null: this was the last."
    )
    total: int = Field(description="How many match, on all pages.")


class Usage(BaseModel):
    """What a sandbox uses, read from outside."""

    cpu_seconds: float = Field(description="Since its start.")
    memory_bytes: int = Field(description="Resident, without page cache.")
    disk_bytes: int = Field(description="Written over the template.")


class Metric(BaseModel):
    """What a sandbox used in the time up to a moment."""

    at: datetime
    cores: float = Field(
        description="Processors that were busy with it, on average, since the metric before."
    )
    memory_bytes: int = Field(description="Resident, without page cache.")
    cache_bytes: int = Field(description="Page cache.")
    disk_bytes: int = Field(description="Written over the template.")


class LogLine(BaseModel):
    """A line of a sandbox's log."""

    at: datetime
    level: Literal["debug", "info", "warn", "error"]
    message: str = Field(examples=["process ended"])
    fields: dict[str, str] = Field(examples=[{"logger": "process", "pid": "12", "exit_code": "0"}])


class MemoryKill(BaseModel):
    """A process inside that was killed because the sandbox used more memory than it has."""

    pid: int
    command: str
    resident_bytes: int


class Template(BaseModel):
    """What sandboxes start from."""

    id: str = Field(examples=["base-3f1c9a27d0b4"])
    name: str = Field(examples=["base"])
    built_at: datetime
    limits: Limits = Field(description="The size of sandboxes that name none.")
    default_user: str = Field(examples=["user"])


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"
    version: str


class Problem(BaseModel):
    """What went wrong."""

    code: Code = Field(examples=[Code.NOT_FOUND])
    message: str = Field(examples=[f"Sandbox \"{_EXAMPLE_ID}\" doesn't exist or you don't have access to it"])
    request_id: str = Field(description="The same as in the server's log.", examples=["req_4f0c2a9be1d37568"])


class TeamWish(Closed):
    """A team to be made."""

    name: Name = Field(examples=["research"])


class TeamLimitsWish(Closed):
    """Limits of a team's own; null: as everybody's. What is left out stays as it is."""

    max_sandboxes: Annotated[StrictInt, Field(ge=0)] | None = Field(
        default=None, description="Its sandboxes that are neither paused nor ended."
    )
    max_cpus: StrictFloat | StrictInt | None = Field(default=None, description="Of one of its sandboxes.")
    max_memory_bytes: StrictInt | None = Field(default=None, description="Of one of its sandboxes.")
    requests_per_second: StrictInt | None = Field(
        default=None,
        description="Calls of this API with all of its keys together, on average over the server's window of "
        "time; null: each key is counted alone, against the server's limit.",
    )


class TeamChange(Closed):
    """What is to be changed of a team."""

    limits: TeamLimitsWish = TeamLimitsWish()


class TeamLimits(BaseModel):
    """Limits of a team's own; null: as everybody's."""

    max_sandboxes: int | None
    max_cpus: float | None
    max_memory_bytes: int | None
    requests_per_second: int | None


class Team(BaseModel):
    """Who owns sandboxes, volumes, secrets and keys."""

    id: str
    name: str
    created_at: datetime
    limits: TeamLimits
    deleting: bool = Field(description="It goes, with all that is its own; nothing new is made for it.")


class Pool(BaseModel):
    """Machines of one template and size that wait to become sandboxes."""

    template: str
    template_id: str
    limits: Limits
    ready: int = Field(description="How many wait.")
    ids: list[str] = Field(description="Of the sandboxes that those will be; names of what is on the host.")
    wanted: int = Field(description="How many should.")
    hits: int = Field(description="Creates since the server's start that found one.")
    misses: int = Field(description="Creates that found none, and restored or booted one.")
    oldest_since: datetime | None = Field(description="Since when the one waits that waits longest.")
    machine_bytes: int = Field(description="What one takes of the host's memory.")
    problem: str | None = Field(description="Why none can be made at the moment.")


class KeyWish(Closed):
    """A key to be made."""

    name: Name = Field(examples=["nightly runs"])
    kind: Literal["api_key", "access_token"] = Field(
        default="api_key", description="For programs; or what makes and revokes keys of its team too."
    )
    team: Name | None = Field(default=None, description="Id or name; null: the caller's own.")


class Key(BaseModel):
    """What is kept of a key."""

    id: str
    team_id: str
    name: str
    kind: str
    hint: str = Field(description="Some of its characters, so that it is known again.")
    created_at: datetime
    last_used_at: datetime | None = Field(description="To the minute; null: never.")


class NewKey(Key):
    """A key, this once with the key itself."""

    key: str


class SnapshotWish(Closed):
    """What to keep of a running sandbox."""

    name: Name | None = Field(default=None, description="An older snapshot of this name loses it.")
    memory: Flag = Field(default=True, description="False: files only; what is created from it boots.")


class Snapshot(BaseModel):
    """What a sandbox was at one moment."""

    id: str
    name: str | None
    sandbox_id: str = Field(description="What it was taken of; that may be gone.", examples=[_EXAMPLE_ID])
    template: str
    memory: bool
    limits: Limits
    size_bytes: int = Field(description="On the server's disk.")
    scheduled: bool = Field(description="Taken by itself; goes when there are newer ones.")
    created_at: datetime


class SnapshotPage(BaseModel):
    """A part of a list, newest first."""

    snapshots: list[Snapshot]
    next_page_token: str | None = Field(
        description="Give it as page_token for the next part; null: this was the last."
    )


class ForkWish(Closed):
    """Sandboxes that go on where one is."""

    count: StrictInt = Field(default=1, description="How many.")
    timeout_seconds: Annotated[Seconds, Field(gt=0)] = Field(examples=[300])


class ForkProblem(BaseModel):
    """Why one of them is not there."""

    code: Code
    message: str


class Fork(BaseModel):
    """One of them: a sandbox, or why there is none."""

    sandbox: Sandbox | None
    error: ForkProblem | None


class CollectionWish(Closed):
    """What to do about what nobody needs."""

    dry_run: Flag = Field(default=False, description="Only find it.")


class Leftover(BaseModel):
    """Something that nobody needs."""

    kind: str = Field(description="checkpoint, half-written, runs, guestd, runsc or template.")
    name: str = Field(description="Its own; of runs, how many they are.")
    size_bytes: int = Field(description="What it takes.")


class Collection(BaseModel):
    """What nobody needs, and what could not be looked at or removed."""

    dry_run: bool
    size_bytes: int
    leftovers: list[Leftover]
    problems: list[str]
