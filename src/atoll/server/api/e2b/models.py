"""Requests and answers of the E2B dialect, as they are on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from atoll.server.api.fields import Flag, Reference, Seconds, Text, Texts

# E2B's own defaults.
TIMEOUT_V1 = 15
TIMEOUT_V2 = 300


class AutoResume(BaseModel):
    """Whether traffic wakes a paused sandbox."""

    enabled: Flag = False


class Transform(BaseModel):
    """What is done to a request."""

    model_config = ConfigDict(extra="forbid")

    headers: Texts | None = None


class NetworkRule(BaseModel):
    """What is done to requests for a name."""

    model_config = ConfigDict(extra="forbid")

    transform: Transform | None = None


class ProxyTLS(BaseModel):
    """How a proxy is spoken to."""

    model_config = ConfigDict(extra="forbid")

    enabled: Flag = False
    serverName: Text | None = None
    caCert: Text | None = None


class EgressProxy(BaseModel):
    """The SOCKS5 proxy that all TCP goes through."""

    model_config = ConfigDict(extra="forbid")

    address: Text
    username: Text | None = None
    password: Text | None = None
    tls: ProxyTLS | None = None


class OutgoingRules(BaseModel):
    """What a sandbox may reach; fields that are not named here are refused."""

    model_config = ConfigDict(extra="allow")

    allowOut: list[Text] | None = None
    denyOut: list[Text] | None = None
    dnsServers: list[Text] | None = None
    rules: dict[Text, list[NetworkRule]] | None = None
    egressProxy: EgressProxy | None = None


class Network(OutgoingRules):
    """What a sandbox may reach, and who may reach it."""

    allowPublicTraffic: Flag | None = None
    maskRequestHost: Text | None = None
    httpsPorts: list[StrictInt] | None = None


class NetworkUpdate(OutgoingRules):
    """Replaces what a running sandbox may reach."""

    allow_internet_access: Flag | None = None


class VolumeMount(BaseModel):
    """A volume, by name, and where it is inside."""

    name: Text
    path: Text


class IdentityToken(BaseModel):
    """Whom a token of a sandbox is for. Of types there is one."""

    model_config = ConfigDict(extra="forbid")

    audience: Text
    tokenType: Text


class WorkloadIdentity(BaseModel):
    """What a sandbox may prove to others that it is."""

    model_config = ConfigDict(extra="forbid")

    tokens: dict[Text, IdentityToken] | None = None


class NewSandbox(BaseModel):
    """The body of both creates; fields that are not named here are refused."""

    model_config = ConfigDict(extra="allow")

    templateID: Reference
    timeout: Seconds | None = None
    metadata: Texts | None = None
    envVars: Texts | None = None
    secure: Flag | None = None
    allow_internet_access: Flag | None = None
    network: Network | None = None
    autoPause: Flag | None = None
    autoPauseMemory: Flag | None = None
    autoResume: AutoResume | None = None
    volumeMounts: list[VolumeMount] | None = None
    iam: WorkloadIdentity | None = None
    mcp: dict[str, Any] | None = None


class NewTimeout(BaseModel):
    """Sets the deadline, from now."""

    timeout: Annotated[Seconds, Field(ge=0)]


class Refresh(BaseModel):
    """Keeps a sandbox alive for at least so long, from now."""

    duration: Annotated[Seconds, Field(ge=0)] | None = None


class Connect(BaseModel):
    """Keeps a sandbox alive and asks how to reach it. ``memory`` concerns paused ones only."""

    timeout: Annotated[Seconds, Field(ge=0)] | None = None
    memory: Flag | None = None


class Pause(BaseModel):
    """Pauses a sandbox, with ``requireHealthyGuest`` only if its guest answers."""

    memory: Flag | None = None
    requireHealthyGuest: Flag | None = None


class ResumeV1(BaseModel):
    """Resumes a paused sandbox, of older clients. Without ``autoPause``, its deadline means what it did."""

    timeout: Annotated[Seconds, Field(gt=0)] | None = None
    autoPause: Flag | None = None
    memory: Flag | None = None


class ConnectV1(Connect):
    """The same, of older clients."""

    timeout: Annotated[Seconds, Field(ge=0)]


class Sandbox(BaseModel):
    """How to reach a sandbox."""

    templateID: str
    sandboxID: str
    clientID: str
    envdVersion: str
    alias: str
    envdAccessToken: str | None = None
    trafficAccessToken: str | None = None
    domain: str | None = None


class ListedSandbox(BaseModel):
    """A sandbox in a list."""

    templateID: str
    alias: str
    sandboxID: str
    clientID: str
    startedAt: datetime
    endAt: datetime
    cpuCount: int
    memoryMB: int
    diskSizeMB: int
    state: Literal["running", "paused"]
    envdVersion: str
    metadata: dict[str, str]
    envdUnresponsiveAtPause: bool | None = None
    volumeMounts: list[VolumeMount] = Field(default_factory=list)


class Lifecycle(BaseModel):
    """What happens when the time is over."""

    autoResume: bool = False
    onTimeout: Literal["kill", "pause"] = "kill"


class ProxyTLSInfo(BaseModel):
    """How a proxy is spoken to, without the authorities that it is known by."""

    enabled: bool = True
    serverName: str | None = None


class EgressProxyInfo(BaseModel):
    """The proxy, without its password."""

    address: str
    username: str | None = None
    tls: ProxyTLSInfo | None = None


class NetworkInfo(BaseModel):
    """What a sandbox may reach."""

    allowPublicTraffic: bool = True
    allowOut: list[str] | None = None
    denyOut: list[str] | None = None
    dnsServers: list[str] | None = None
    rules: dict[str, list[NetworkRule]] | None = None
    egressProxy: EgressProxyInfo | None = None
    maskRequestHost: str | None = None
    httpsPorts: list[int] | None = None


class SandboxDetail(ListedSandbox):
    """A sandbox, with how to reach it."""

    envdAccessToken: str | None = None
    allowInternetAccess: bool
    domain: str | None
    network: NetworkInfo
    lifecycle: Lifecycle = Field(default_factory=Lifecycle)
    pauseMode: Literal["full", "filesystem"] | None = None


class SandboxMetric(BaseModel):
    """What a sandbox uses; bytes."""

    timestamp: datetime
    timestampUnix: int
    cpuCount: int
    cpuUsedPct: float
    memUsed: int
    memTotal: int
    memCache: int
    diskUsed: int
    diskTotal: int


class SandboxesWithMetrics(BaseModel):
    """The newest metric of each of several sandboxes."""

    sandboxes: dict[str, SandboxMetric]


class TeamMetric(BaseModel):
    """What a team's sandboxes were, all together; starts per second."""

    timestamp: datetime
    timestampUnix: int
    concurrentSandboxes: int
    sandboxStartRate: float


class MaxTeamMetric(BaseModel):
    """The most that one of these was, and when."""

    timestamp: datetime
    timestampUnix: int
    value: float


class LogLine(BaseModel):
    """A line of a log as text: an object with the line's fields, as JSON."""

    timestamp: datetime
    line: str


class LogEntry(BaseModel):
    """A line of a log."""

    timestamp: datetime
    message: str
    level: Literal["debug", "info", "warn", "error"]
    fields: dict[str, str]


class Logs(BaseModel):
    """A log in both forms."""

    logs: list[LogLine]
    logEntries: list[LogEntry]


class LogsV2(BaseModel):
    """A log."""

    logs: list[LogEntry]


class Template(BaseModel):
    """A template in a list."""

    templateID: str
    buildID: str
    cpuCount: StrictInt
    memoryMB: StrictInt
    diskSizeMB: StrictInt
    public: bool = True
    aliases: list[str]
    names: list[str]
    createdAt: datetime
    updatedAt: datetime
    createdBy: None = None
    lastSpawnedAt: None = None
    spawnCount: int = 0
    buildCount: int = 1
    envdVersion: str
    buildStatus: Literal["ready"] = "ready"
    isDefault: bool = True


class TemplateBuild(BaseModel):
    """A build of a template."""

    buildID: str
    status: Literal["ready"] = "ready"
    createdAt: datetime
    updatedAt: datetime
    finishedAt: datetime
    cpuCount: StrictInt
    memoryMB: StrictInt
    diskSizeMB: StrictInt
    envdVersion: str


class TemplateWithBuilds(Template):
    """A template, and what it was built as."""

    builds: list[TemplateBuild]


class TemplateAlias(BaseModel):
    """Whom a name belongs to."""

    templateID: str
    public: bool = True
