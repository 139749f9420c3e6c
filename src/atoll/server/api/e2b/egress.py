"""From E2B's words about what a sandbox may reach to control's, and back."""

from collections.abc import Mapping

from atoll.server.api.e2b import models
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.egress_proxy import EgressProxy, ProxyTLS
from atoll.server.domain.egress_rules import HeaderRule
from atoll.server.domain.errors import InvalidArgumentError


def to_egress(internet: bool | None, asked: models.OutgoingRules) -> EgressPolicy:
    """
    Read a policy.

    Raises:
        InvalidArgumentError: a name has more than one transform.
    """
    return EgressPolicy(
        internet=internet is not False,
        allow_out=tuple(asked.allowOut or ()),
        deny_out=tuple(asked.denyOut or ()),
        dns_servers=tuple(asked.dnsServers or ()),
        rules=_to_rules(asked.rules or {}),
        proxy=_to_proxy(asked.egressProxy),
    )


def _to_rules(asked: Mapping[str, list[models.NetworkRule]]) -> tuple[HeaderRule, ...]:
    found = []
    for domain, rules in asked.items():
        if len(rules) > 1:
            raise InvalidArgumentError(f"rules {ascii(domain[:64])[1:-1]} has {len(rules)} rules, at most 1")
        headers = [rule.transform.headers or {} for rule in rules if rule.transform is not None]
        found.append(HeaderRule(domain=domain, headers=tuple(headers[0].items()) if headers else ()))
    return tuple(found)


def _to_proxy(asked: models.EgressProxy | None) -> EgressProxy | None:
    if asked is None:
        return None
    tls = asked.tls
    return EgressProxy(
        address=asked.address,
        username=asked.username or "",
        password=asked.password or "",
        tls=ProxyTLS(server_name=tls.serverName or "", ca_cert=tls.caCert or "")
        if tls is not None and tls.enabled
        else None,
    )


def from_rules(rules: tuple[HeaderRule, ...]) -> dict[str, list[models.NetworkRule]] | None:
    """Show the rules to their owner, as they were given."""
    return {
        rule.domain: [models.NetworkRule(transform=models.Transform(headers=dict(rule.headers)))]
        for rule in rules
    } or None


def from_proxy(proxy: EgressProxy | None) -> models.EgressProxyInfo | None:
    """Show a proxy without what is secret about it."""
    if proxy is None:
        return None
    return models.EgressProxyInfo(
        address=proxy.address,
        username=proxy.username or None,
        tls=None if proxy.tls is None else models.ProxyTLSInfo(serverName=proxy.tls.server_name or None),
    )
