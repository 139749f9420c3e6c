"""What on this host is in the way of sandboxes' networks, for ``atoll doctor``. Changes nothing; blocks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.server.host import sysctl
from atoll.server.host.netlink import Netlink
from atoll.server.host.nftables import Nftables, NftablesError
from atoll.server.network.host_settings import MAX_MAP_COUNT
from atoll.server.network.kernel_errors import translated
from atoll.server.network.names import ANY_VETH, GATEWAY

LEGACY_TABLES = Path("/proc/net/ip_tables_names")
_OURS = "atoll_"
_SLOT = ANY_VETH.rstrip("*")
# Connections of 26 sandboxes that use all they may.
_FEW_CONNECTIONS = 65536


@dataclass(frozen=True, kw_only=True)
class Finding:
    """
    Something to tell the operator.

    Attributes:
        message: what is so.
        effect: what it means for sandboxes.
        resolution: what to do.
        serious: whether sandboxes do not work as they should; else it is good to know.
    """

    message: str
    effect: str
    resolution: str
    serious: bool = True


def look() -> list[Finding]:
    """
    Look at this host.

    Raises:
        UnavailableError: the kernel does not let us look; needs root.
    """
    try:
        nftables = Nftables()
    except NftablesError as error:
        return [
            Finding(
                message=str(error),
                effect="no fence can be put up, so no sandbox starts",
                resolution="install it: apt-get install libnftables1",
            )
        ]
    try:
        with translated("look at the host's packet filter"), Netlink() as netlink:
            found = dropping_chains(nftables.query("list chains"))
            found += gateway_elsewhere(netlink.names(), netlink.addresses())
    finally:
        nftables.close()
    return [*found, *legacy_tables(), *settings()]


def dropping_chains(objects: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Find base chains of others that drop by default: what we allow, they still forbid."""
    found = []
    for item in objects:
        chain = item.get("chain", {})
        hook, table = chain.get("hook"), str(chain.get("table", ""))
        if chain.get("policy") != "drop" or table.startswith(_OURS) or chain.get("family") == "arp":
            continue
        where = f"{chain.get('family')} {table} {chain.get('name')}"
        if hook == "forward":
            found.append(
                Finding(
                    message=f"chain '{where}' drops forwarded packets by default, as Docker sets it up",
                    effect="sandboxes have no internet, unless a rule there accepts theirs",
                    resolution=f"iptables -I FORWARD -i {_SLOT}+ -j ACCEPT; iptables -I FORWARD -o {_SLOT}+ "
                    "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT "
                    "(chain DOCKER-USER instead of FORWARD where Docker runs; Atoll's own fence still holds)",
                )
            )
        elif hook == "input":
            found.append(
                Finding(
                    message=f"chain '{where}' drops packets to the host by default",
                    effect="names do not resolve in sandboxes, unless a rule there accepts their questions",
                    resolution=f"accept what comes in from {_SLOT}+ there (Atoll's own fence still holds)",
                )
            )
        elif hook == "output":
            found.append(
                Finding(
                    message=f"chain '{where}' drops packets from the host by default",
                    effect="the server cannot speak to sandboxes, unless a rule there accepts it",
                    resolution=f"accept what goes out to {_SLOT}+ there",
                )
            )
    return found


def gateway_elsewhere(links: Mapping[int, str], addresses: Iterable[tuple[int, Any]]) -> list[Finding]:
    """Find the slots' gateway address on an interface of somebody else."""
    return [
        Finding(
            message=f"{GATEWAY} is an address of {links.get(index, index)}",
            effect="who uses it there cannot reach it any more from elsewhere, since the fence protects it",
            resolution="give that interface another link-local address",
        )
        for index, interface in addresses
        if interface.ip == GATEWAY and not links.get(index, "").startswith(_SLOT)
    ]


def legacy_tables(file: Path = LEGACY_TABLES) -> list[Finding]:
    """Find rules of the old iptables, which nft does not show."""
    try:
        tables = file.read_text().split()
    except OSError:
        return []
    if "filter" not in tables:
        return []
    return [
        Finding(
            message="the old iptables (legacy) has filter rules on this host",
            effect="if its FORWARD chain drops by default, sandboxes have no internet",
            resolution="look: iptables-legacy -S FORWARD",
            serious=False,
        )
    ]


def settings(root: Path = sysctl.PROC_SYS) -> list[Finding]:
    """Find host settings that are too low and that Atoll does not, or could not, raise."""
    found = []
    if _number("vm/max_map_count", root) < MAX_MAP_COUNT:
        found.append(
            Finding(
                message=f"vm.max_map_count is {_number('vm/max_map_count', root)}",
                effect="programs with much shared memory die of SIGSEGV in sandboxes",
                resolution=f"`atoll up` raises it to {MAX_MAP_COUNT}, and `atoll down` puts it back",
                serious=False,
            )
        )
    connections = _number("net/netfilter/nf_conntrack_max", root)
    if 0 < connections < _FEW_CONNECTIONS:
        found.append(
            Finding(
                message=f"net.netfilter.nf_conntrack_max is {connections}",
                effect="a few sandboxes with many connections use it up, for the host too",
                resolution="sysctl -w net.netfilter.nf_conntrack_max=262144",
                serious=False,
            )
        )
    return found


def _number(name: str, root: Path) -> int:
    try:
        return int(sysctl.read(name, root))
    except (sysctl.SysctlError, ValueError):
        return -1
