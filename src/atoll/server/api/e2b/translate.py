"""From E2B's words to control's, and back. No rule lives here but which of E2B's options Atoll has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid5

from atoll.server.api.e2b import models
from atoll.server.api.e2b.egress import from_proxy, from_rules, to_egress
from atoll.server.api.e2b.queries import STATE_OF_STATUS
from atoll.server.control.requests import CreateSandbox, MountWish
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.egress import ALL_TRAFFIC, EgressPolicy
from atoll.server.domain.errors import InvalidArgumentError, UnimplementedError
from atoll.server.domain.identity import WorkloadToken
from atoll.server.domain.ingress import IngressPolicy
from atoll.server.domain.metrics import Point
from atoll.server.domain.sandbox import OnDeadline, Pause, Sandbox, Status
from atoll.server.domain.team_history import TeamPoint
from atoll.server.domain.template import Template

# Clients switch features of the daemon on by its version; guestd has all of this one's.
ENVD_VERSION = "0.6.13"
# Old clients append it to the id of a sandbox. Means nothing here.
CLIENT_ID = "00000000"
MIB = 1024 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Any would do, as long as it stays.
_BUILDS = UUID("8f1f7a52-6d0c-4b8e-9a55-1c1de2b1f0a7")
# E2B's own text.
PRIVATE_NEEDS_SECURE = (
    "You cannot create a sandbox without public access "
    "unless you enable secure envd access via 'secure' flag."
)
# Clients start it inside when the sandbox is there, and take a template of its name where none is named.
NO_GATEWAY = (
    "option mcp needs the program mcp-gateway, which no template here has: "
    "leave the option out, and start servers inside with a command"
)
_TOKEN_TYPE = "JWT-SVID"  # noqa: S105  a kind, not a token
_PAUSE_MODES: dict[CheckpointKind, Literal["full", "filesystem"]] = {
    CheckpointKind.MEMORY: "full",
    CheckpointKind.FILES: "filesystem",
}
# Options of a create whose value says that they are not wanted.
_OFF: tuple[Any, ...] = (None, False, "", [], {})


@dataclass(frozen=True, kw_only=True)
class Reach:
    """
    How clients reach sandboxes.

    Attributes:
        domain: what ``get_host`` appends to ``<port>-<sandbox id>.``; "localhost:<port>", say.
    """

    domain: str


def to_wish(body: models.NewSandbox, *, version: int) -> CreateSandbox:
    """
    Read a create; version 1 of the route secures a sandbox only when asked to.

    Raises:
        InvalidArgumentError: options that contradict each other.
        UnimplementedError: an option that Atoll does not have.
    """
    _refuse_unknown("", body.model_extra)
    if body.mcp:
        raise InvalidArgumentError(NO_GATEWAY)
    if body.autoPauseMemory is False and not body.autoPause:
        raise InvalidArgumentError("autoPauseMemory false needs autoPause")
    auto_resume = body.autoResume is not None and body.autoResume.enabled is True
    if body.autoPauseMemory is False and auto_resume:
        raise InvalidArgumentError("autoPauseMemory false excludes autoResume")
    default = models.TIMEOUT_V1 if version == 1 else models.TIMEOUT_V2
    timeout = default if body.timeout is None else body.timeout
    if timeout <= 0:
        raise InvalidArgumentError("Timeout must be greater than 0")
    ingress, secured = to_ingress(body.network), version > 1 or body.secure is True
    if not ingress.public and not secured:
        raise InvalidArgumentError(PRIVATE_NEEDS_SECURE)
    return CreateSandbox(
        template=body.templateID,
        timeout=timedelta(seconds=timeout),
        metadata=body.metadata or {},
        env=body.envVars or {},
        egress=_first_egress(body.allow_internet_access, body.network),
        ingress=ingress,
        secured=secured,
        on_deadline=_on_deadline(body),
        auto_resume=auto_resume,
        volumes=tuple(MountWish(name=one.name, path=one.path) for one in body.volumeMounts or ()),
        tokens=_tokens(body.iam),
    )


def _tokens(iam: models.WorkloadIdentity | None) -> tuple[WorkloadToken, ...]:
    wanted = (iam.tokens if iam else None) or {}
    for name, token in wanted.items():
        if token.tokenType != _TOKEN_TYPE:
            raise InvalidArgumentError(
                f"iam token {name[:64]!a} has the unsupported tokenType {token.tokenType[:64]!a}; "
                f"supported: {_TOKEN_TYPE}"
            )
    return tuple(WorkloadToken(name=name, audience=token.audience) for name, token in wanted.items())


def _on_deadline(body: models.NewSandbox) -> OnDeadline:
    if not body.autoPause:
        return OnDeadline.KILL
    return OnDeadline.PAUSE_FILES if body.autoPauseMemory is False else OnDeadline.PAUSE


def _first_egress(internet: bool | None, network: models.Network | None) -> EgressPolicy:
    """
    Read what a sandbox may reach.

    Raises:
        UnimplementedError: an option that Atoll does not have.
    """
    network = network or models.Network()
    _refuse_unknown("network.", network.model_extra)
    return to_egress(internet, network)


def to_ingress(network: models.Network | None) -> IngressPolicy:
    """Read who may reach a sandbox."""
    network = network or models.Network()
    return IngressPolicy(
        public=network.allowPublicTraffic is not False,
        mask_host=network.maskRequestHost or "",
        https_ports=tuple(network.httpsPorts or ()),
    )


def to_new_egress(body: models.NetworkUpdate) -> EgressPolicy:
    """
    Read what a running sandbox may reach from now on; what is left out is as if it had never been said.

    Raises:
        UnimplementedError: an option that Atoll does not have.
    """
    _refuse_unknown("", body.model_extra)
    return to_egress(body.allow_internet_access, body)


def _refuse_unknown(prefix: str, extra: Mapping[str, Any] | None) -> None:
    for name, value in (extra or {}).items():
        if value not in _OFF:
            raise UnimplementedError(f"option {prefix}{name[:64]} is not available")


def from_sandbox(sandbox: Sandbox, token: str, reach: Reach, traffic_token: str | None) -> models.Sandbox:
    """Say how to reach a sandbox."""
    return models.Sandbox(
        templateID=sandbox.template_id,
        sandboxID=sandbox.id,
        clientID=CLIENT_ID,
        envdVersion=ENVD_VERSION,
        alias=sandbox.template_alias,
        envdAccessToken=token if sandbox.secured else None,
        trafficAccessToken=traffic_token,
        domain=reach.domain,
    )


def from_listed(sandbox: Sandbox) -> models.ListedSandbox:
    """Describe a running sandbox."""
    return models.ListedSandbox(**_described(sandbox))


def from_detailed(sandbox: Sandbox, token: str, reach: Reach) -> models.SandboxDetail:
    """Describe a running sandbox and say how to reach it."""
    paused = _finished_pause(sandbox)
    return models.SandboxDetail(
        **_described(sandbox),
        envdAccessToken=token if sandbox.secured else None,
        allowInternetAccess=not sandbox.egress.denies_all,
        domain=reach.domain,
        network=_network(sandbox),
        lifecycle=models.Lifecycle(
            autoResume=sandbox.auto_resume,
            onTimeout="kill" if sandbox.on_deadline is OnDeadline.KILL else "pause",
        ),
        pauseMode=_PAUSE_MODES[paused.kind] if paused else None,
    )


def _network(sandbox: Sandbox) -> models.NetworkInfo:
    egress, ingress = sandbox.egress, sandbox.ingress
    denied = list(egress.deny_out)
    if not egress.internet and ALL_TRAFFIC not in denied:
        denied.append(ALL_TRAFFIC)
    return models.NetworkInfo(
        allowPublicTraffic=ingress.public,
        maskRequestHost=ingress.mask_host or None,
        httpsPorts=list(ingress.https_ports) or None,
        allowOut=list(egress.allow_out) or None,
        denyOut=denied or None,
        dnsServers=list(egress.dns_servers) or None,
        rules=from_rules(egress.rules),
        egressProxy=from_proxy(egress.proxy),
    )


def _described(sandbox: Sandbox) -> dict[str, Any]:
    paused = _finished_pause(sandbox)
    return {
        "templateID": sandbox.template_id,
        "alias": sandbox.template_alias,
        "sandboxID": sandbox.id,
        "clientID": CLIENT_ID,
        "startedAt": sandbox.started_at or sandbox.created_at,
        "endAt": sandbox.deadline,
        "cpuCount": _whole_cores(sandbox.limits.cpus),
        "memoryMB": sandbox.limits.memory_bytes // MIB,
        "diskSizeMB": sandbox.limits.disk_bytes // MIB,
        "state": STATE_OF_STATUS.get(sandbox.status, "running"),
        "envdVersion": ENVD_VERSION,
        "metadata": dict(sandbox.metadata),
        "envdUnresponsiveAtPause": True if paused and paused.silent else None,
        "volumeMounts": [models.VolumeMount(name=one.name, path=one.path) for one in sandbox.volumes],
    }


def _finished_pause(sandbox: Sandbox) -> Pause | None:
    """Return what a sandbox comes back from; None: it runs, or is still being written down."""
    return None if sandbox.status is Status.PAUSING else sandbox.pause


def unix_seconds(moment: datetime) -> int:
    """Return the whole seconds of a time; a float would round those of the last years up."""
    return (moment - _EPOCH) // timedelta(seconds=1)


def from_point(sandbox: Sandbox, point: Point) -> models.SandboxMetric:
    """Describe what a sandbox used; the share of the processors is that of what it may have."""
    return models.SandboxMetric(
        timestamp=point.at,
        timestampUnix=unix_seconds(point.at),
        cpuCount=_whole_cores(sandbox.limits.cpus),
        cpuUsedPct=round(100.0 * point.cores / sandbox.limits.cpus, 2),
        memUsed=point.memory_bytes,
        memTotal=sandbox.limits.memory_bytes,
        memCache=point.cache_bytes,
        diskUsed=point.disk_bytes,
        diskTotal=sandbox.limits.disk_bytes,
    )


def from_team_point(point: TeamPoint) -> models.TeamMetric:
    """Describe what a team's sandboxes were, all together."""
    return models.TeamMetric(
        timestamp=point.at,
        timestampUnix=unix_seconds(point.at),
        concurrentSandboxes=point.running,
        sandboxStartRate=point.starts_per_second,
    )


def from_template(template: Template) -> models.Template:
    """Describe a template."""
    return models.Template(
        templateID=template.id,
        buildID=_build_id(template),
        cpuCount=_whole_cores(template.limits.cpus),
        memoryMB=template.limits.memory_bytes // MIB,
        diskSizeMB=template.limits.disk_bytes // MIB,
        aliases=[template.name],
        names=[template.name],
        createdAt=template.built_at,
        updatedAt=template.built_at,
        envdVersion=ENVD_VERSION,
    )


def from_build(template: Template) -> models.TemplateBuild:
    """Describe the one build that a template's id names."""
    return models.TemplateBuild(
        buildID=_build_id(template),
        createdAt=template.built_at,
        updatedAt=template.built_at,
        finishedAt=template.built_at,
        cpuCount=_whole_cores(template.limits.cpus),
        memoryMB=template.limits.memory_bytes // MIB,
        diskSizeMB=template.limits.disk_bytes // MIB,
        envdVersion=ENVD_VERSION,
    )


def _build_id(template: Template) -> str:
    """Make the UUID that clients want a build to have; always the same for one template id."""
    return str(uuid5(_BUILDS, template.id))


def _whole_cores(cpus: float) -> int:
    """Round up: E2B's clients know whole cores only."""
    return max(1, math.ceil(cpus))
