"""
What a sandbox may reach: the policy, what it means, and which policies there can be.

The host, other sandboxes, private ranges and metadata addresses are never reachable, whatever a policy says;
that is the fence's work, and no policy knows of it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any

from atoll.server.domain.egress_proxy import EgressProxy, check_proxy, proxy_from_plain, proxy_to_plain
from atoll.server.domain.egress_rules import (
    HeaderRule,
    RuleLimits,
    check_headers,
    rule_from_plain,
    rule_to_plain,
)
from atoll.server.domain.errors import InvalidArgumentError

Network = IPv4Network | IPv6Network

# What clients write for "everything"; it means IPv6 too.
ALL_TRAFFIC = "0.0.0.0/0"
# E2B's own text: programs compare it.
DOMAINS_NEED_DENY = (
    "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all "
    "other traffic."
)
# Error texts repeat at most so much of what the caller sent.
_MOST_QUOTED = 64
# RFC 1035: 253 characters of a name, 63 of a label. Underscores are in use.
_MOST_NAME = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True, kw_only=True)
class EgressPolicy:
    """
    What a sandbox may reach. What is allowed wins over what is denied; what is neither is allowed.

    Attributes:
        internet: False is the same as to deny everything.
        allow_out: addresses and networks of IPv4 and IPv6, and domains: ``example.com``, ``*.example.com``
            (any depth below, not itself).
        deny_out: addresses and networks.
        dns_servers: IPv4 addresses of the name servers that resolve for it; none: the host's. Where domains
            are allowed, these addresses are too.
        rules: which requests get headers on their way; they allow nothing.
        proxy: what all of its TCP goes through, after all this; None: nothing.
    """

    internet: bool = True
    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] = ()
    rules: tuple[HeaderRule, ...] = ()
    proxy: EgressProxy | None = None

    def fenced(self) -> "EgressPolicy":
        """Return the part that concerns the machine: without values of headers, and without credentials."""
        rules = tuple(HeaderRule(domain=rule.domain) for rule in self.rules)
        proxy = None if self.proxy is None else EgressProxy(address=self.proxy.address)
        return replace(self, rules=rules, proxy=proxy)

    @property
    def denies_all(self) -> bool:
        """Whether what is not allowed is denied."""
        return not self.internet or ALL_TRAFFIC in self.deny_out

    @property
    def domains(self) -> tuple[str, ...]:
        """The allowed domains."""
        return tuple(entry for entry in self.allow_out if _network(entry) is None)

    def allowed(self, version: int) -> tuple[Network, ...]:
        """Return the allowed networks of IPv4 or IPv6, without overlaps."""
        extra = self.dns_servers if self.domains else ()
        return _collapsed((*self.allow_out, *extra), version)

    def denied(self, version: int) -> tuple[Network, ...]:
        """Return the denied networks of IPv4 or IPv6, without overlaps."""
        return _collapsed(self.deny_out, version)


def checked(
    policy: EgressPolicy,
    *,
    most_entries: int,
    most_dns_servers: int,
    rule_limits: RuleLimits = RuleLimits(),  # noqa: B008  frozen
) -> EgressPolicy:
    """
    Return a caller's policy as it is kept: domains in lower case, nothing twice.

    Args:
        policy: the caller's.
        most_entries: how many entries each of its lists may have.
        most_dns_servers: how many name servers.
        rule_limits: what its rules may hold.

    Raises:
        InvalidArgumentError: an entry is none, there are too many, or domains are allowed beside everything.
        UnimplementedError: a header's value names what Atoll does not have.
    """
    for what, entries in (("allowOut", policy.allow_out), ("denyOut", policy.deny_out)):
        if len(entries) > most_entries:
            raise InvalidArgumentError(f"{what} has {len(entries)} entries, at most {most_entries}")
    if len(policy.dns_servers) > most_dns_servers:
        raise InvalidArgumentError(
            f"dnsServers has {len(policy.dns_servers)} entries, at most {most_dns_servers}"
        )
    for untrusted in policy.deny_out:
        if _network(untrusted) is None:
            raise InvalidArgumentError(f"invalid denied CIDR {_quoted(untrusted)}")
    found = EgressPolicy(
        internet=policy.internet,
        allow_out=tuple(dict.fromkeys(_allowed(untrusted) for untrusted in policy.allow_out)),
        deny_out=tuple(dict.fromkeys(policy.deny_out)),
        dns_servers=tuple(dict.fromkeys(_name_server(untrusted) for untrusted in policy.dns_servers)),
        rules=_rules(policy.rules, rule_limits),
        proxy=policy.proxy,
    )
    if found.proxy is not None:
        check_proxy(found.proxy)
    if found.domains and not found.denies_all:
        raise InvalidArgumentError(DOMAINS_NEED_DENY)
    return found


def to_plain(policy: EgressPolicy) -> dict[str, Any]:
    """Return the policy as JSON has it; what says nothing is left out."""
    lists = {"allow_out": policy.allow_out, "deny_out": policy.deny_out, "dns_servers": policy.dns_servers}
    plain: dict[str, Any] = {"internet": policy.internet}
    plain |= {name: list(entries) for name, entries in lists.items() if entries}
    if policy.rules:
        plain["rules"] = [rule_to_plain(rule) for rule in policy.rules]
    if policy.proxy is not None:
        plain["proxy"] = proxy_to_plain(policy.proxy)
    return plain


def fingerprint(policy: EgressPolicy) -> str:
    """Return what tells policies apart: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(to_plain(policy), sort_keys=True).encode()).hexdigest()


def from_plain(content: Mapping[str, Any]) -> EgressPolicy:
    """
    Read what ``to_plain`` wrote, of this version or an earlier one.

    Raises:
        TypeError: it has another form.
    """
    unknown = content.keys() - {"internet", "allow_out", "deny_out", "dns_servers", "rules", "proxy"}
    if unknown or not isinstance(content.get("internet"), bool):
        # By its keys only: it may hold credentials.
        raise TypeError(f"not a policy: {sorted(content)!r:.100}")
    rules = content.get("rules", [])
    if not isinstance(rules, list):
        raise TypeError("not a list of rules")
    return EgressPolicy(
        internet=content["internet"],
        allow_out=_strings(content.get("allow_out", [])),
        deny_out=_strings(content.get("deny_out", [])),
        dns_servers=_strings(content.get("dns_servers", [])),
        rules=tuple(rule_from_plain(rule) for rule in rules),
        proxy=proxy_from_plain(content["proxy"]) if "proxy" in content else None,
    )


def _rules(untrusted: tuple[HeaderRule, ...], limits: RuleLimits) -> tuple[HeaderRule, ...]:
    if len(untrusted) > limits.domains:
        raise InvalidArgumentError(f"rules has {len(untrusted)} domains, at most {limits.domains}")
    found: dict[str, HeaderRule] = {}
    for rule in untrusted:
        domain = checked_domain(rule.domain, what="rule domain")
        if domain in found:
            raise InvalidArgumentError(f"rules has {domain} twice")
        found[domain] = replace(rule, domain=domain)
        check_headers(found[domain], limits)
    # Without headers they would do nothing.
    return tuple(rule for rule in found.values() if rule.headers)


def checked_domain(untrusted: str, *, what: str = "allowed entry") -> str:
    """
    Return a domain or a pattern of domains in lower case.

    Raises:
        InvalidArgumentError: it is neither.
    """
    name = untrusted.lower()
    labels = name.removeprefix("*.").split(".")
    # The last label of a name is never a number: that would be an address in an old form.
    fine = len(name) <= _MOST_NAME and all(_LABEL.fullmatch(label) for label in labels)
    kind = "IP, CIDR or domain name" if what == "allowed entry" else "domain name"
    if not fine or labels[-1].isdigit():
        raise InvalidArgumentError(f"invalid {what} {_quoted(untrusted)}: no {kind}")
    return name


def _allowed(untrusted: str) -> str:
    return untrusted if _network(untrusted) is not None else checked_domain(untrusted)


def _name_server(untrusted: str) -> str:
    try:
        return str(IPv4Address(untrusted))
    except ValueError:
        raise InvalidArgumentError(
            f"invalid DNS server {_quoted(untrusted)}: must be an IPv4 address"
        ) from None


def _network(text: str) -> Network | None:
    # A mask (10.0.0.0/255.0.0.0) and a zone (fe80::1%eth0) are read by Python, and by nobody else.
    address, _, length = text.partition("/")
    if "%" in address or ("/" in text and not (length.isascii() and length.isdigit())):
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _collapsed(entries: Iterable[str], version: int) -> tuple[Network, ...]:
    networks = [network for entry in entries if (network := _network(entry)) is not None]
    if version == 4:
        return tuple(collapse_addresses(one for one in networks if isinstance(one, IPv4Network)))
    return tuple(collapse_addresses(one for one in networks if isinstance(one, IPv6Network)))


def _quoted(untrusted: str) -> str:
    # ascii: it may be no valid Unicode, and would break the answer as well.
    return ascii(untrusted[:_MOST_QUOTED])[1:-1]


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"not a list of strings: {value!r:.100}")
    return tuple(value)
