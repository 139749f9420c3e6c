"""From our API's words to control's, and back."""

from collections.abc import Sequence
from datetime import timedelta

from atoll.server.api.rest import models
from atoll.server.control.requests import CreateSandbox, LimitsOverride, MountWish
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.egress_proxy import EgressProxy, ProxyTLS
from atoll.server.domain.egress_rules import HeaderRule
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ingress import IngressPolicy
from atoll.server.domain.limits import Limits
from atoll.server.domain.sandbox import FINAL, Sandbox
from atoll.server.domain.template import Template
from atoll.server.domain.upkeep import NEVER, Fall, Restart, Upkeep

_MOST_METADATA_PAIRS = 64


def to_wish(body: models.CreateSandbox) -> CreateSandbox:
    """Read a create."""
    return CreateSandbox(
        template=body.template,
        timeout=timedelta(seconds=body.timeout_seconds),
        metadata=body.metadata,
        env=body.env,
        egress=to_egress(body.internet, body.network),
        ingress=IngressPolicy(
            public=body.incoming.public,
            mask_host=body.incoming.mask_host,
            https_ports=tuple(body.incoming.https_ports),
        ),
        secured=body.secured,
        limits=LimitsOverride(
            cpus=None if body.limits.cpus is None else float(body.limits.cpus),
            memory_bytes=body.limits.memory_bytes,
            processes=body.limits.processes,
            disk_bytes=body.limits.disk_bytes,
        ),
        volumes=tuple(MountWish(name=one.volume, path=one.path) for one in body.volumes),
        on_deadline=body.on_deadline,
        auto_resume=body.auto_resume,
        upkeep=to_upkeep(body),
    )


def to_upkeep(body: models.CreateSandbox) -> Upkeep:
    """Read how a sandbox is kept."""
    lasting = Restart.FROM_SNAPSHOT if body.persistent else Restart.NEVER
    return Upkeep(
        persistent=body.persistent,
        restart=lasting if body.restart is None else Restart(body.restart),
        snapshot_every=_time(body.snapshot_every_seconds),
        keep_snapshots=body.keep_snapshots,
        idle_timeout=_time(body.idle_timeout_seconds),
    )


def _time(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _seconds(time: timedelta | None) -> int | None:
    return None if time is None else round(time.total_seconds())


def _from_fall(fall: Fall | None) -> models.Fall | None:
    if fall is None:
        return None
    return models.Fall(
        reason=fall.reason,
        at=fall.at,
        snapshot_id=fall.origin,
        times=fall.times,
        back_at=fall.back_at,
        problem=fall.problem,
    )


def to_egress(internet: bool, network: models.Network) -> EgressPolicy:
    """Read what a sandbox may reach."""
    return EgressPolicy(
        internet=internet,
        allow_out=tuple(network.allow_out),
        deny_out=tuple(network.deny_out),
        dns_servers=tuple(network.dns_servers),
        rules=tuple(
            HeaderRule(domain=domain, headers=tuple(headers.items()))
            for domain, headers in network.headers.items()
        ),
        proxy=_to_proxy(network.proxy),
    )


def _to_proxy(asked: models.Proxy | None) -> EgressProxy | None:
    if asked is None:
        return None
    tls = asked.tls
    return EgressProxy(
        address=asked.address,
        username=asked.username,
        password=asked.password,
        tls=None if tls is None else ProxyTLS(server_name=tls.server_name, ca_cert=tls.ca_cert),
    )


def _from_proxy(proxy: EgressProxy | None) -> models.Proxy | None:
    """Show a proxy without what is secret about it."""
    if proxy is None:
        return None
    tls = None if proxy.tls is None else models.ProxyTLS(server_name=proxy.tls.server_name)
    return models.Proxy(address=proxy.address, username=proxy.username, tls=tls)


def to_metadata(untrusted: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """
    Read filters such as ``user=ada``.

    Raises:
        InvalidArgumentError: one without a sign of equality, or too many.
    """
    if len(untrusted) > _MOST_METADATA_PAIRS:
        raise InvalidArgumentError(f"query metadata: at most {_MOST_METADATA_PAIRS} times")
    pairs = tuple(one.partition("=") for one in untrusted)
    if not all(sign and key and "\0" not in key + value for key, sign, value in pairs):
        raise InvalidArgumentError("query metadata: must be key=value")
    return tuple((key, value) for key, _, value in pairs)


def from_sandbox(
    sandbox: Sandbox, *, domain: str, token: str | None, traffic_token: str | None = None
) -> models.Sandbox:
    """Describe a sandbox to its owner; the token is shown while the sandbox is there, when it is secured."""
    return models.Sandbox(
        id=sandbox.id,
        template=sandbox.template_alias,
        template_id=sandbox.template_id,
        status=sandbox.status,
        limits=from_limits(sandbox.limits),
        internet=sandbox.egress.internet,
        network=models.Network(
            allow_out=list(sandbox.egress.allow_out),
            deny_out=list(sandbox.egress.deny_out),
            dns_servers=list(sandbox.egress.dns_servers),
            headers={rule.domain: dict(rule.headers) for rule in sandbox.egress.rules},
            proxy=_from_proxy(sandbox.egress.proxy),
        ),
        incoming=models.Incoming(
            public=sandbox.ingress.public,
            mask_host=sandbox.ingress.mask_host,
            https_ports=list(sandbox.ingress.https_ports),
        ),
        volumes=[
            models.MountedVolume(volume_id=one.volume_id, name=one.name, path=one.path)
            for one in sandbox.volumes
        ],
        metadata=dict(sandbox.metadata),
        created_at=sandbox.created_at,
        started_at=sandbox.started_at,
        deadline=None if sandbox.deadline == NEVER else sandbox.deadline,
        on_deadline=sandbox.on_deadline,
        auto_resume=sandbox.auto_resume,
        ended_at=sandbox.ended_at,
        end_reason=sandbox.end_reason,
        generation=sandbox.generation,
        persistent=sandbox.upkeep.persistent,
        restart=sandbox.upkeep.restart.value,
        snapshot_every_seconds=_seconds(sandbox.upkeep.snapshot_every),
        keep_snapshots=sandbox.upkeep.keep_snapshots,
        idle_timeout_seconds=_seconds(sandbox.upkeep.idle_timeout),
        fall=_from_fall(sandbox.fall),
        runtime=sandbox.runtime,
        domain=domain,
        access_token=token if sandbox.secured and sandbox.status not in FINAL else None,
        traffic_token=traffic_token if sandbox.status not in FINAL else None,
    )


def from_template(template: Template) -> models.Template:
    """Describe a template."""
    return models.Template(
        id=template.id,
        name=template.name,
        built_at=template.built_at,
        limits=from_limits(template.limits),
        default_user=template.default_user,
    )


def from_limits(limits: Limits) -> models.Limits:
    """Translate a size."""
    return models.Limits(
        cpus=limits.cpus,
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        disk_bytes=limits.disk_bytes,
    )
