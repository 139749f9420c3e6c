"""What slots must know of the host's own network: how it reaches the world, and what lies on its links."""

from collections.abc import Mapping
from dataclasses import dataclass

from atoll.server.host.netlink import Netlink, Network, Route
from atoll.server.network.names import ANY_VETH

# What Ethernet takes; for a host without a way out.
_DEFAULT_MTU = 1500
# IPv6 works over no link with less (RFC 8200).
_LEAST_MTU6 = 1280
_LOOPBACK = "lo"
# A wider route without a gateway (0.0.0.0/1 into a tunnel) leads to the world, not to neighbours.
_WIDEST_LINK = 8
_TABLE_LOCAL = 255


@dataclass(frozen=True, kw_only=True)
class HostNetwork:
    """
    The host's network, as it is now.

    Attributes:
        mtu: what fits through every way out, in bytes.
        uplinks6: the interfaces with an IPv6 default route; with none, sandboxes have no IPv6.
        on_link: networks whose machines are the host's neighbours, for whom no gateway is asked.
    """

    mtu: int
    uplinks6: tuple[str, ...]
    on_link: tuple[Network, ...]

    @property
    def ipv6(self) -> bool:
        """Whether sandboxes get IPv6."""
        return bool(self.uplinks6) and self.mtu >= _LEAST_MTU6


def read(netlink: Netlink) -> HostNetwork:
    """Look at the host."""
    links = netlink.names()
    routes = [route for route in netlink.routes() if not _is_slot(links, route.link)]
    ways_out = [route for route in routes if route.destination.prefixlen == 0 and route.kind == "unicast"]
    return HostNetwork(
        mtu=min(_mtus(netlink, ways_out), default=_DEFAULT_MTU),
        uplinks6=_uplinks6(links, ways_out),
        on_link=_on_link(netlink, links, routes),
    )


def read_now() -> HostNetwork:
    """Look at the network of the calling thread's namespace."""
    with Netlink() as netlink:
        return read(netlink)


def _mtus(netlink: Netlink, ways_out: list[Route]) -> list[int]:
    links = {route.link for route in ways_out if route.link is not None}
    return [mtu for link in links if (mtu := netlink.mtu(link)) is not None]


def _uplinks6(links: Mapping[int, str], ways_out: list[Route]) -> tuple[str, ...]:
    names = {
        links.get(r.link, _LOOPBACK) for r in ways_out if r.destination.version == 6 and r.link is not None
    }
    return tuple(sorted(names - {_LOOPBACK}))


def _on_link(netlink: Netlink, links: Mapping[int, str], routes: list[Route]) -> tuple[Network, ...]:
    networks = {
        route.destination
        for route in routes
        if route.kind == "unicast"
        and not route.gateway
        and route.destination.prefixlen >= _WIDEST_LINK
        and route.table != _TABLE_LOCAL
        and route.link is not None
    }
    networks |= {interface.network for index, interface in netlink.addresses() if not _is_slot(links, index)}
    return tuple(sorted(networks, key=lambda network: (network.version, network)))


def _is_slot(links: Mapping[int, str], index: int | None) -> bool:
    return index is not None and links.get(index, "").startswith(ANY_VETH.rstrip("*"))
