"""
Interfaces, addresses, routes and neighbours of the network namespace in which a ``Netlink`` was opened.

Over pyroute2. Its sockets belong to the thread that first uses them: so does a ``Netlink``; and that thread
must not be one that runs an event loop, which pyroute2 brings itself.
All calls block, for some 0.2 ms each; deleting interfaces takes 20 to 40, however many.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from types import TracebackType
from typing import Any, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError as _Refused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface

_IFF_UP = 0x1
_IFF_NOARP = 0x80
_IFA_F_NODAD = 0x02
_NUD_PERMANENT = 0x80
_SCOPE_LINK = 253
# Of a route that is to be deleted: whatever its scope is.
_SCOPE_ANY = 255
_RTN_UNICAST = 1
_RTN_LOCAL = 2
_RTN_UNREACHABLE = 7
_TABLE_MAIN = 254
_TABLE_LOCAL = 255


class NetlinkError(Exception):
    """The kernel refused; says what was asked, and why it was not done."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """
    A line of a routing table.

    Attributes:
        destination: for whom; the default route has prefix length 0.
        link: index of the interface that leads there, if one does.
        gateway: whether another machine is the next hop: without, the destination is on the link.
        kind: unicast, local, unreachable, or the kernel's number of another kind.
        protocol: the number of who made it.
        priority: its metric.
        table: the table's number.
    """

    destination: Network
    link: int | None
    gateway: bool
    kind: str
    protocol: int
    priority: int
    table: int


class Netlink:
    """Speaks to the kernel for one thread, about the namespace in which that thread opened it."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """
        Args:
            loop: another one's, see ``another``; None: one of its own.
        """
        self._loop = loop or asyncio.new_event_loop()
        self._owns_loop = loop is None
        try:
            with _asking("open a netlink socket"):
                self._route = IPRoute(use_event_loop=self._loop)
                # Made now at the latest, in the namespace of this moment.
                self._route.fileno()
        except BaseException:
            self._close_loop()
            raise

    def another(self) -> "Netlink":
        """
        Open one more, in the namespace of this moment; it is to be closed before this one.

        Both have one event loop: to make one takes as long as two requests.
        """
        return Netlink(self._loop)

    def close(self) -> None:
        """Close the socket."""
        self._route.close()
        self._close_loop()

    def _close_loop(self) -> None:
        if self._owns_loop:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def names(self) -> dict[int, str]:
        """
        List the interfaces of the calling thread's namespace: names by index.

        Not over pyroute2, which takes 0.3 ms for each, since it reads all that there is to say of it.
        """
        with _asking("list interfaces"):
            return dict(socket.if_nameindex())

    def mtu(self, link: int) -> int | None:
        """Return how many bytes fit through an interface at once, None when it is gone."""
        try:
            with _asking(f"look at link {link}"):
                return next((int(one.get_attr("IFLA_MTU")) for one in self._route.get_links(link)), None)
        except NetlinkError as error:
            if _number(error) != errno.ENODEV:
                raise
            return None

    def addresses(self) -> list[tuple[int, Interface]]:
        """List all addresses: each with the index of its interface, and the length of its prefix."""
        with _asking("list addresses"):
            return [
                (message["index"], ip_interface(f"{address}/{message['prefixlen']}"))
                for message in self._route.get_addr()
                # On a point-to-point link IFA_ADDRESS is the other end's; IFA_LOCAL is always ours.
                if (address := message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
            ]

    def routes(self) -> list[Route]:
        """List the routes of all tables, for IPv4 and IPv6."""
        with _asking("list routes"):
            return [
                _route(message)
                for family in (socket.AF_INET, socket.AF_INET6)
                for message in self._route.get_routes(family=family)
            ]

    def index(self, name: str) -> int | None:
        """Return the index of an interface of the calling thread's namespace, None when there is none."""
        try:
            return socket.if_nametoindex(name)
        except OSError:
            # Whatever the reason is: without a descriptor to spare it says the same.
            return next((index for index, one in self.names().items() if one == name), None)

    def add_veth(
        self, name: str, *, mac: str, peer: str, peer_mac: str, peer_index: int, peer_netns: int, mtu: int
    ) -> int:
        """
        Make a pair of interfaces, one here and one in another namespace, both down; return ours' index.

        Args:
            name: ours.
            mac: our hardware address.
            peer: the other's name.
            peer_mac: the other's hardware address.
            peer_index: the other's index, free in its namespace.
            peer_netns: file descriptor of the other's namespace.
            mtu: of both, in bytes.
        """
        other = {
            "ifname": peer, "index": peer_index, "address": peer_mac, "mtu": mtu, "net_ns_fd": peer_netns,
        }  # fmt: skip
        with _asking(f"add {name}"):
            self._route.link("add", ifname=name, kind="veth", address=mac, mtu=mtu, peer=other)
            return socket.if_nametoindex(name)

    def set_up(self, link: int, *, arp: bool = True) -> None:
        """Switch an interface on; without *arp* it neither asks for hardware addresses nor answers."""
        flags = _IFF_UP if arp else _IFF_UP | _IFF_NOARP
        with _asking(f"set link {link} up"):
            self._route.link("set", index=link, flags=flags, change=_IFF_UP | _IFF_NOARP)

    def delete_links(self, names: Collection[str], *, group: int) -> None:
        """
        Delete interfaces, and their other ends; names of which there is none do not matter.

        Args:
            names: of the interfaces.
            group: a number that no interface has that is to stay. What is in it goes too.
        """
        # The kernel takes one name or a whole group, and waits once for each call, not for each interface.
        for name in names:
            self._put_in_group(name, group)
        self._unless_gone("delete interfaces", "del", group=group)

    def _put_in_group(self, name: str, group: int) -> None:
        index = self.index(name)
        if index is not None:
            self._unless_gone(f"delete {name}", "set", index=index, group=group)

    def _unless_gone(self, what: str, action: str, **which: int) -> None:
        try:
            with _asking(what):
                self._route.link(action, **which)
        except NetlinkError as error:
            if _number(error) != errno.ENODEV:
                raise

    def add_address(self, link: int, address: Interface, *, link_scope: bool = False) -> None:
        """
        Give an interface an address, again is the same.

        An IPv6 one holds at once, without asking others for it first.
        """
        more: dict[str, Any] = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
        if link_scope:
            more["scope"] = _SCOPE_LINK
        with _asking(f"add address {address} to link {link}"):
            self._route.addr(
                "replace", index=link, address=str(address.ip), prefixlen=address.network.prefixlen, **more
            )

    def add_neighbour(self, link: int, address: Address, mac: str) -> None:
        """Set for good which hardware address an address has; again is the same."""
        with _asking(f"add neighbour {address} on link {link}"):
            self._route.neigh(
                "replace", dst=str(address), lladdr=mac, ifindex=link, state=_NUD_PERMANENT,
                family=_family(address.version),
            )  # fmt: skip

    def add_route(
        self, destination: Network, *, link: int, gateway: Address | None = None, protocol: int
    ) -> None:
        """Lead a destination through an interface; without a gateway it is on the link. Again is the same."""
        more: dict[str, Any] = {"gateway": str(gateway)} if gateway else {}
        if gateway is None and destination.version == 4:
            more["scope"] = _SCOPE_LINK
        with _asking(f"add route to {destination} by link {link}"):
            self._route.route(
                "replace", dst=str(destination), oif=link, proto=protocol,
                family=_family(destination.version), **more,
            )  # fmt: skip

    def disown(self, link: int, address: Address) -> None:
        """Have this kernel not answer for an address, though an interface has it; again is the same."""
        try:
            with _asking(f"disown {address}"):
                self._route.route(
                    "del", dst=f"{address}/{address.max_prefixlen}", type="local", table=_TABLE_LOCAL,
                    oif=link, family=_family(address.version), scope=_SCOPE_ANY,
                )  # fmt: skip
        except NetlinkError as error:
            if _number(error) not in (errno.ESRCH, errno.ENOENT):
                raise

    def add_unreachable(self, destination: Network, *, protocol: int, priority: int) -> None:
        """Have packets for a destination refused, unless a narrower route leads there."""
        self._unreachable("add", destination, protocol, priority)

    def delete_unreachable(self, destination: Network, *, protocol: int, priority: int) -> None:
        """Undo ``add_unreachable``; a no-op when there is none."""
        try:
            self._unreachable("del", destination, protocol, priority)
        except NetlinkError as error:
            if _number(error) not in (errno.ESRCH, errno.ENOENT):
                raise

    def _unreachable(self, action: str, destination: Network, protocol: int, priority: int) -> None:
        with _asking(f"{action} unreachable {destination}"):
            self._route.route(
                action, dst=str(destination), type="unreachable", proto=protocol, priority=priority,
                table=_TABLE_MAIN, family=_family(destination.version),
            )  # fmt: skip


def _route(message: Any) -> Route:
    any_network = "0.0.0.0/0" if message["family"] == socket.AF_INET else "::/0"
    destination = message.get_attr("RTA_DST")
    hops = message.get_attr("RTA_MULTIPATH") or []
    link = message.get_attr("RTA_OIF") or (hops[0]["oif"] if hops else None)
    gateway = message.get_attr("RTA_GATEWAY") or message.get_attr("RTA_VIA") or hops
    kinds = {_RTN_UNICAST: "unicast", _RTN_LOCAL: "local", _RTN_UNREACHABLE: "unreachable"}
    return Route(
        destination=ip_network(f"{destination}/{message['dst_len']}" if destination else any_network),
        link=link,
        gateway=bool(gateway),
        kind=kinds.get(message["type"], str(message["type"])),
        protocol=message["proto"],
        priority=message.get_attr("RTA_PRIORITY") or 0,
        table=message.get_attr("RTA_TABLE") or message["table"],
    )


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _number(error: NetlinkError) -> int | None:
    cause = error.__cause__
    return getattr(cause, "code", None) or getattr(cause, "errno", None)


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    try:
        yield
    except _Refused as error:
        raise NetlinkError(f"{what}: {os.strerror(error.code) if error.code else error}") from error
    except OSError as error:
        raise NetlinkError(f"{what}: {error}") from error
