"""
The fence's rules, as text for nft. Pure: nothing here touches the kernel.

What a sandbox sends is judged once, where it arrives, before any other table could send it elsewhere (DNAT
comes later), and where it is forwarded a second time, after that. A verdict "drop" or "reject" is final in
nftables; so what this table forbids no other table can allow. What it allows, another table can still forbid.

Sandboxes are closed until an element of ``policies4`` or ``policies6`` opens them: forgetting one is safe.
Refusals answer (TCP reset, ICMP), so that a program fails at once instead of waiting; forgeries do not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from atoll.server.domain.egress import EgressPolicy
from atoll.server.host.netlink import Network
from atoll.server.network.names import ANY_VETH, EGRESS_MARK, GATEWAY, AddressRange, Names

# As many as E2B allows. All connections of all sandboxes share the kernel's table (262,144 by default), and
# one sandbox must not fill it.
MOST_CONNECTIONS = 2500

# Without the documentation ranges 192.0.2/24, 198.51.100/24, 203.0.113/24: some networks really use them, for
# their way out or their package mirror, and nobody's secrets are there otherwise. The host's own links are
# forbidden apart from these lists.
PRIVATE4 = (
    "0.0.0.0/8",  # "this network"
    "10.0.0.0/8",
    "100.64.0.0/10",  # carriers' NAT, Tailscale, some clouds' metadata (100.100.100.200)
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local, most clouds' metadata
    "172.16.0.0/12",
    "192.0.0.0/24",  # protocol assignments; Oracle's metadata
    "192.88.99.0/24",  # 6to4 relays: a way into IPv6 past its list
    "192.168.0.0/16",
    "198.18.0.0/15",  # benchmarks, and private in practice
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, broadcast
    "168.63.129.16/32",  # Azure's wire server: the host's secrets, on a public address
)
PRIVATE6 = (
    "::/96",  # unspecified, loopback, "IPv4-compatible"
    "::ffff:0:0/96",  # IPv4-mapped
    "::ffff:0:0:0/96",  # IPv4-translated
    "64:ff9b::/96",  # NAT64: IPv4's private ranges under another name
    "64:ff9b:1::/48",
    "100::/64",  # discard
    "2001::/23",  # protocol assignments, Teredo
    "2002::/16",  # 6to4: IPv4 under another name
    "fc00::/7",  # unique local; also AWS's metadata fd00:ec2::254
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
)
# The chains of slots whose policy names no network.
_SHARED = frozenset({"open", "closed"})
# What the edge looks into for a name. Over IPv6 it is refused, and programs then take IPv4.
_BY_DOMAIN = "meta nfproto ipv4 tcp dport { 80, 443 }"
# What the edge carries through a proxy; there is none over IPv6 either.
_TUNNELLED = "meta nfproto ipv4 meta l4proto tcp"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """
    What the rules are made from.

    Attributes:
        names: whose.
        addresses: the home's range.
        dns_port: where the edge's name server listens, on the gateway's address, UDP and TCP.
        egress_port: where the edge takes connections that go by domains, TCP.
        ipv6: whether sandboxes have IPv6.
        on_link: the networks on the host's own links.
        most_connections: of one sandbox at once, for each of IPv4 and IPv6.
    """

    names: Names
    addresses: AddressRange
    dns_port: int
    egress_port: int
    ipv6: bool
    on_link: tuple[Network, ...]
    most_connections: int = MOST_CONNECTIONS


def ruleset(rules: Rules, elements: Iterable[str] = ()) -> str:
    """Return the commands that make the table anew, in one transaction, with these elements in it."""
    table = f"inet {rules.names.table}"
    # Made before it is deleted, since deleting what is not there is an error.
    return "\n".join([f"table {table}", f"delete table {table}", _table(rules), *elements])


def admit(rules: Rules, number: int, policy: EgressPolicy) -> list[str]:
    """Return the commands that give a slot its policy; it must have none."""
    chain = _chain(number, policy)
    return [
        *(own_chain(rules, number, policy) if chain not in _SHARED else ()),
        *_elements(rules, number, chain),
    ]


def _elements(rules: Rules, number: int, chain: str) -> list[str]:
    return [
        f"add element inet {rules.names.table} {map_name} {{ {address} : goto {chain} }}"
        for map_name, address in _policies(rules, number)
    ]


def dismiss(rules: Rules, number: int, policy: EgressPolicy) -> list[str]:
    """
    Return the commands that close a slot; it must have this policy.

    The count of its connections stays: its set has room for every address, and forgets closed connections.
    """
    table, chain = rules.names.table, _chain(number, policy)
    commands = [
        f"delete element inet {table} {map_name} {{ {address} }}"
        for map_name, address in _policies(rules, number)
    ]
    if _leads(policy):
        commands += [
            f"delete element inet {table} by_domain4 {{ {rules.addresses.address(number)} }}",
            f"flush chain inet {table} lead_{number}",
            f"delete chain inet {table} lead_{number}",
        ]
    if chain not in _SHARED:
        commands += [f"flush chain inet {table} {chain}", f"delete chain inet {table} {chain}"]
    return commands


def hush(rules: Rules, number: int, *, silent: bool) -> str:
    """Return the command that lets nothing out of a slot, or what is allowed again."""
    veth = rules.names.veth(number)
    return f'{"add" if silent else "delete"} element inet {rules.names.table} silent {{ "{veth}" }}'


def own_chain(rules: Rules, number: int, policy: EgressPolicy) -> list[str]:
    """
    Return the commands that make the chain of a slot whose policy names networks.

    What is closed to all is judged first; what is allowed wins over what is denied.
    """
    table, chain = rules.names.table, _chain(number, policy)
    open_to = _way_out(policy)
    judgements = ["jump guarded"]
    if policy.rules:
        # QUIC: nobody looks into it for a name, and programs then take TCP.
        judgements.append("udp dport 443 goto refuse")
    judgements += _destinations(policy.allowed, f"goto {open_to}")
    if policy.domains:
        judgements.append(f"{_BY_DOMAIN} goto led")
    judgements += _destinations(policy.denied, "goto refuse")
    judgements.append("goto refuse" if policy.denies_all else f"goto {open_to}")
    commands = [
        f"add chain inet {table} {chain}",
        *(f"add rule inet {table} {chain} {judgement}" for judgement in judgements),
    ]
    return [*commands, *(_leading(rules, number, policy) if _leads(policy) else ())]


def _leads(policy: EgressPolicy) -> bool:
    """Say whether anything of a slot goes to the edge."""
    if policy.denies_all and not policy.allow_out:
        return False
    return bool(policy.domains or policy.rules or policy.proxy)


def _way_out(policy: EgressPolicy) -> str:
    """Name the chain of what an address opens: to the world, or for some of it to the edge."""
    if policy.proxy is not None:
        return "tunnelled"
    return "read" if policy.rules else "counted"


def _leading(rules: Rules, number: int, policy: EgressPolicy) -> list[str]:
    """Lead to the edge what it reads or tunnels; with domains alone, not what an address opens anyway."""
    table, chain = rules.names.table, f"lead_{number}"
    what = _TUNNELLED if policy.proxy is not None else _BY_DOMAIN
    apart = _destinations(policy.allowed, "return") if _way_out(policy) == "counted" else []
    steps = [*apart, f"{what} redirect to :{rules.egress_port}"]
    return [
        f"add chain inet {table} {chain}",
        *(f"add rule inet {table} {chain} {step}" for step in steps),
        f"add element inet {table} by_domain4 {{ {rules.addresses.address(number)} : goto {chain} }}",
    ]


def _destinations(found: Callable[[int], tuple[Network, ...]], verdict: str) -> list[str]:
    return [
        f"{field} daddr {{ {', '.join(str(network) for network in networks)} }} {verdict}"
        for version, field in ((4, "ip"), (6, "ip6"))
        if (networks := found(version))
    ]


def _chain(number: int, policy: EgressPolicy) -> str:
    if policy.denies_all and not policy.allow_out:
        return "closed"
    return f"own_{number}" if policy.allow_out or policy.deny_out or _leads(policy) else "open"


def _policies(rules: Rules, number: int) -> list[tuple[str, IPv4Address | IPv6Address]]:
    found: list[tuple[str, IPv4Address | IPv6Address]] = [("policies4", rules.addresses.address(number))]
    if rules.ipv6:
        found.append(("policies6", rules.addresses.address6(number)))
    return found


def _table(rules: Rules) -> str:
    ours = f'"{rules.names.veth_prefix}*"'
    forbidden4 = _set("forbidden4", "ipv4_addr", [*PRIVATE4, *_of(rules, 4)])
    forbidden6 = _set("forbidden6", "ipv6_addr", [*PRIVATE6, *_of(rules, 6)])
    return f"""
table inet {rules.names.table} {{
  comment "Atoll: the fence around the sandboxes of home {rules.names.home_id}"
{forbidden4}
{forbidden6}
  map policies4 {{
    type ipv4_addr : verdict
  }}
  map policies6 {{
    type ipv6_addr : verdict
  }}
  map by_domain4 {{
    type ipv4_addr : verdict
  }}
  set silent {{
    type ifname
  }}
  set connections4 {{
    type ipv4_addr
    size {rules.addresses.v4.num_addresses}
    flags dynamic
  }}
  set connections6 {{
    type ipv6_addr
    size {rules.addresses.v4.num_addresses}
    flags dynamic
  }}
{_judgement(rules)}
{_hooks(rules, ours)}
}}"""


def _judgement(rules: Rules) -> str:
    most = rules.most_connections
    return f"""
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable
  }}
  chain answers {{
    # To what the host has asked; and the errors that belong to any connection. No redirects: they would
    # change the host's routes.
    ct direction reply ct state established accept
    ct state related icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
    ct state related icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded,
      parameter-problem }} accept
  }}
  chain closed {{
    jump answers
    goto refuse
  }}
  chain guarded {{
    jump answers
    ip daddr {GATEWAY} udp dport 53 goto counted
    ip daddr {GATEWAY} tcp dport 53 goto counted
    # Whatever the host itself answers to, public addresses too; broadcast, multicast, unreachable.
    fib daddr type != unicast goto refuse
    ip daddr @forbidden4 goto refuse
    ip6 daddr @forbidden6 goto refuse
  }}
  chain open {{
    jump guarded
    goto counted
  }}
  chain counted {{
    ct state new add @connections4 {{ ip saddr ct count over {most} }} goto refuse
    ct state new add @connections6 {{ ip6 saddr ct count over {most} }} goto refuse
    accept
  }}
  chain led {{
    # To the edge. Not what was open before it had to go there.
    ct state new goto counted
    ct status dnat accept
    goto refuse
  }}
  chain read {{
    {_BY_DOMAIN} goto led
    tcp dport {{ 80, 443 }} goto refuse
    goto counted
  }}
  chain tunnelled {{
    {_TUNNELLED} goto led
    meta l4proto tcp goto refuse
    goto counted
  }}
  chain from_sandbox {{
    {"" if rules.ipv6 else "meta nfproto ipv6 drop"}
    # Only from its own address: the way back to the sender must lead through the same interface. This ends
    # router advertisements and neighbour discovery too, which come from link-local addresses.
    fib saddr . iif oif missing drop
    ip6 saddr fe80::/10 drop
    ct state invalid drop
    ip saddr vmap @policies4
    ip6 saddr vmap @policies6
    goto refuse
  }}"""


def _hooks(rules: Rules, ours: str) -> str:
    v4, v6 = rules.addresses.v4, rules.addresses.v6
    return f"""
  chain arriving {{
    # Behind connection tracking (-200), before the first DNAT (-100).
    type filter hook prerouting priority mangle; policy accept;
    iifname @silent drop
    iifname {ours} goto from_sandbox
    # Every slot's gateway is an address of this host; nobody else may knock at it.
    iifname != {{ "lo", "{ANY_VETH}" }} ip daddr {GATEWAY} drop
  }}
  chain names {{
    # A little before others' DNAT rules: the first one wins.
    type nat hook prerouting priority dstnat - 10; policy accept;
    iifname {ours} ip daddr {GATEWAY} udp dport 53 redirect to :{rules.dns_port}
    iifname {ours} ip daddr {GATEWAY} tcp dport 53 redirect to :{rules.dns_port}
    iifname {ours} ip saddr vmap @by_domain4
  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname {ours} goto judge_to_host
  }}
  chain judge_to_host {{
    jump answers
    ct status dnat udp dport {rules.dns_port} accept
    ct status dnat tcp dport {rules.dns_port} accept
    ct status dnat tcp dport {rules.egress_port} accept
    goto refuse
  }}
  chain from_host {{
    type filter hook output priority filter; policy accept;
    meta mark {EGRESS_MARK:#x} goto judge_edge
  }}
  chain judge_edge {{
    # The edge connects for a sandbox, to what a name led to: nothing that the sandbox itself must not reach.
    fib daddr type != unicast goto refuse
    oifname "{ANY_VETH}" goto refuse
    ip daddr @forbidden4 goto refuse
    ip6 daddr @forbidden6 goto refuse
    accept
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    iifname {ours} goto judge_out
    oifname {ours} goto judge_in
  }}
  chain judge_out {{
    # Here addresses are as other tables have left them.
    oifname "{ANY_VETH}" goto refuse
    ip daddr @forbidden4 goto refuse
    ip6 daddr @forbidden6 goto refuse
    accept
  }}
  chain judge_in {{
    # Only answers: nobody but the host itself opens a connection to a sandbox.
    ct direction reply ct state established accept
    ct state related accept
    drop
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {v4} oifname != "{ANY_VETH}" masquerade
    ip6 saddr {v6} oifname != "{ANY_VETH}" masquerade
  }}"""


def _of(rules: Rules, version: int) -> list[str]:
    return [str(network) for network in rules.on_link if network.version == version]


def _set(name: str, kind: str, networks: list[str]) -> str:
    # auto-merge: the host's links may lie inside of a private range.
    return f"""
  set {name} {{
    type {kind}
    flags interval
    auto-merge
    elements = {{ {", ".join(networks)} }}
  }}"""
