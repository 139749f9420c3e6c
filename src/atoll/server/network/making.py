"""
Makes and removes the kernel's side of a slot: a namespace, and a pair of interfaces between it and the host.

    host                                  namespace
    at<home>-<n>  169.254.1.1/32          eth0  <address>/32
                  fe80::1/128                   <address6>/128
    route to <address> by at<home>-<n>    default via 169.254.1.1, which is on the link

Both ends know each other's hardware address for good, and the host's end neither asks nor answers for any.
gVisor reads addresses, routes and neighbours from the namespace when a sandbox starts, and takes them away
from there: so a slot serves one start, unless it is addressed again.

Everything here blocks: some 5 ms to make a slot, 20 to 40 to remove one, and 1 more for each that goes with
it. One instance may be used by several threads.
"""

import os
import socket
import threading
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_interface, ip_network
from pathlib import Path

from atoll.server.host import locked_file, netns, sysctl
from atoll.server.host.netlink import Address, Netlink
from atoll.server.network import names as fixed
from atoll.server.network.kernel_errors import translated
from atoll.server.network.names import AddressRange, Names

_LOOPBACK_INDEX = 1
_ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_HOST_BITS = {4: 32, 6: 128}
_NO_RANGE = IPv4Network("0.0.0.0/0")
# addr_gen_mode: no address of its own making.
_NO_OWN_ADDRESS = "1"
# Says that /run/netns was made a mount by us, and that we may undo it.
_MOUNTED_NAME = "netns-mounted"
_LOCK_NAME = "netns.lock"


@dataclass(frozen=True, kw_only=True)
class SlotShape:
    """
    What all slots of a home have in common.

    Attributes:
        names: whose they are.
        addresses: where their addresses come from.
        mtu: of their interfaces, in bytes.
        ipv6: whether they have IPv6.
    """

    names: Names
    addresses: AddressRange
    mtu: int
    ipv6: bool


class SlotMaker:
    """Makes, finds and removes slots by their number."""

    def __init__(self, shape: SlotShape) -> None:
        self._shape = shape
        self._of_thread = threading.local()

    def make(self, number: int) -> None:
        """
        Make a slot, closed by the fence. A failure leaves what ``remove`` removes.

        Raises:
            UnavailableError: the kernel refused.
        """
        shape, name = self._shape, self._shape.names.namespace(number)
        with translated("make a network slot"):
            # Opened here, if it is not yet: its namespace is the one of that moment.
            host = self._host
            with netns.creating(name):
                # A new interface takes its settings from "default" here.
                for setting, value in self._inside_settings():
                    sysctl.write(f"net/ipv6/conf/default/{setting}", value)
                inside = host.another()
            with inside:
                fd = os.open(netns.path(name), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    link = host.add_veth(
                        shape.names.veth(number),
                        mac=fixed.GATEWAY_MAC,
                        peer=fixed.INSIDE,
                        peer_mac=shape.names.mac(number),
                        peer_index=fixed.INSIDE_INDEX,
                        peer_netns=fd,
                        mtu=shape.mtu,
                    )
                finally:
                    os.close(fd)
                self._address_inside(inside, number)
                self._address_host(link, number)

    def address_again(self, number: int) -> None:
        """
        Give the inside the addresses and routes back that a sandbox took, whatever it left of them.

        The namespace's own kernel answers for none of them meanwhile: to it they are not local, or it would
        reset the connections of a sandbox that comes back.

        Raises:
            UnavailableError: the kernel refused; the slot has to be made anew.
        """
        with translated("address a network slot again"):
            host = self._host
            with netns.inside(self._shape.names.namespace(number)):
                inside = host.another()
            with inside:
                self._address_inside(inside, number)
                for address, _ in self._pairs(number):
                    inside.disown(fixed.INSIDE_INDEX, address)

    def remove(self, number: int) -> None:
        """
        Remove a slot, also half of one; a no-op when there is none.

        Raises:
            UnavailableError: the kernel refused.
        """
        self.remove_all([number])

    def remove_all(self, numbers: Collection[int]) -> None:
        """
        Remove slots, in about the time of one.

        Raises:
            UnavailableError: the kernel refused one; others may be gone.
        """
        names = self._shape.names
        with translated("remove network slots"):
            # First the interfaces: the namespaces' end alone would take them away too, but some time later.
            self._host.delete_links([names.veth(number) for number in numbers], group=names.going_group)
            for number in numbers:
                netns.delete(names.namespace(number))

    def numbers(self) -> set[int]:
        """List the slots of this home of which anything is there."""
        with translated("list network slots"):
            found = [*netns.names(), *self._host.names().values()]
        return {number for name in found if (number := self._shape.names.number(name)) is not None}

    def close_thread(self) -> None:
        """Close what the calling thread has open here."""
        netlink = self._of_thread.__dict__.pop("netlink", None)
        if netlink is not None:
            netlink.close()

    @property
    def _host(self) -> Netlink:
        if not hasattr(self._of_thread, "netlink"):
            self._of_thread.netlink = Netlink()
        netlink: Netlink = self._of_thread.netlink
        return netlink

    def _inside_settings(self) -> tuple[tuple[str, str], ...]:
        if not os.path.exists("/proc/sys/net/ipv6"):  # noqa: PTH110  a constant path, in a hot place
            return ()
        if self._shape.ipv6:
            return (("addr_gen_mode", _NO_OWN_ADDRESS), ("accept_ra", "0"))
        # lo is there already and keeps ::1, which some programs insist on.
        return (("disable_ipv6", "1"),)

    def _address_inside(self, inside: Netlink, number: int) -> None:
        link = fixed.INSIDE_INDEX
        inside.set_up(_LOOPBACK_INDEX)
        inside.set_up(link)
        for address, gateway in self._pairs(number):
            version = address.version
            inside.add_address(link, ip_interface(f"{address}/{_HOST_BITS[version]}"))
            inside.add_neighbour(link, gateway, fixed.GATEWAY_MAC)
            inside.add_route(
                ip_network(f"{gateway}/{_HOST_BITS[version]}"), link=link, protocol=fixed.ROUTE_PROTOCOL
            )
            inside.add_route(_ANYWHERE[version], link=link, gateway=gateway, protocol=fixed.ROUTE_PROTOCOL)

    def _address_host(self, link: int, number: int) -> None:
        veth = self._shape.names.veth(number)
        for setting, value in self._inside_settings():
            sysctl.write(f"net/ipv6/conf/{veth}/{setting}", value)
        self._host.set_up(link, arp=False)
        for address, gateway in self._pairs(number):
            bits = _HOST_BITS[address.version]
            self._host.add_address(link, ip_interface(f"{gateway}/{bits}"), link_scope=True)
            self._host.add_neighbour(link, address, self._shape.names.mac(number))
            self._host.add_route(ip_network(f"{address}/{bits}"), link=link, protocol=fixed.ROUTE_PROTOCOL)

    def _pairs(self, number: int) -> list[tuple[Address, Address]]:
        pairs: list[tuple[Address, Address]] = [(self._shape.addresses.address(number), fixed.GATEWAY)]
        if self._shape.ipv6:
            pairs.append((self._shape.addresses.address6(number), fixed.GATEWAY6))
        return pairs


def remove_slots(names: Names) -> None:
    """
    Remove all slots of a home; a no-op when there is none.

    Raises:
        UnavailableError: the kernel refused one; others may be gone.
    """
    # Only names count for finding and removing.
    shape = SlotShape(
        names=names, addresses=AddressRange.of(names.home_id, _NO_RANGE), mtu=0, ipv6=socket.has_ipv6
    )
    maker = SlotMaker(shape)
    try:
        maker.remove_all(maker.numbers())
    finally:
        maker.close_thread()


def prepare(run_dir: Path) -> None:
    """Have /run/netns ready for namespaces, and remember whether it was so before."""
    with translated("prepare /run/netns"), locked_file.locked(run_dir / _LOCK_NAME):
        if netns.prepare():
            (run_dir / _MOUNTED_NAME).touch()


def unprepare(run_dir: Path) -> None:
    """Leave /run/netns as it was before the first home, unless somebody uses it."""
    mark = run_dir / _MOUNTED_NAME
    with translated("clean up /run/netns"), locked_file.locked(run_dir / _LOCK_NAME):
        if mark.exists():
            netns.unprepare()
            if not netns.DIRECTORY.exists():
                mark.unlink()
