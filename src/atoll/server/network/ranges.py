"""
Each home claims an address range of its own.

The claim is an ``unreachable`` route for the range: other homes see it, whether or not their servers run, and
packets to a sandbox that is gone are refused at once instead of going out to the world.
The caller keeps the range (home.json) and asks for the same one at the next start.
"""

from contextlib import AbstractContextManager
from ipaddress import IPv4Network
from pathlib import Path

from atoll.server.domain.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError
from atoll.server.host import locked_file
from atoll.server.host.netlink import Netlink, Network
from atoll.server.network.names import ROUTE_PROTOCOL, AddressRange, Names, home_of_priority

# Far from what others take by default: Docker 172.17 and up, Podman 10.88, LXD and OpenVPN 10.0-10.8,
# k3s 10.42 and 10.43, kubeadm 10.96 and 10.244, libvirt and Calico 192.168, cloud networks 10.0, 10.128 and
# 172.31, Tailscale 100.64/10. It holds 16 homes.
SUPERNET = IPv4Network("10.201.0.0/16")
# 4,094 sandboxes: eight times as many as a server takes by default, so that an address rests for a while
# before the next sandbox has it.
PREFIX_LENGTH = 20
# 65,534 slots have numbers of 5 digits: they fit into an interface's name.
_WIDEST, _NARROWEST = 16, 29

LOCK_NAME = "ranges.lock"


def claim(
    home_id: str,
    netlink: Netlink,
    *,
    wanted: IPv4Network | None = None,
    supernet: IPv4Network = SUPERNET,
    prefix_length: int = PREFIX_LENGTH,
    run_dir: Path,
) -> AddressRange:
    """
    Claim a range; blocks for some milliseconds. Claiming again what is claimed already changes nothing.

    Args:
        home_id: who claims.
        netlink: to the host's namespace.
        wanted: the range that this home had before; None: any free one. While the home has no slot,
            another one will do if this is taken.
        supernet: where to look for a free one.
        prefix_length: how wide it is to be.
        run_dir: the directory that all homes of this machine share.

    Raises:
        FailedPreconditionError: what is wanted, and used by slots, collides with something on this host.
        ResourceExhaustedError: nothing is free in the supernet.
        InvalidArgumentError: the lengths do not fit together.
    """
    names = Names(home_id)
    if wanted is None and not max(_WIDEST, supernet.prefixlen) <= prefix_length <= _NARROWEST:
        raise InvalidArgumentError(
            f"a home's range cannot have prefix length {prefix_length} in {supernet}",
            resolution=f"choose {_WIDEST} to {_NARROWEST}, and not less than the supernet's",
        )
    with locked(run_dir):
        taken = _taken(names, netlink)
        if wanted and _collisions(wanted, taken) and not _has_slots(names, netlink):
            # Somebody took it while this home was down; nothing of ours lives at its addresses.
            wanted = None
        chosen = _check(wanted, taken) if wanted else choose(supernet, prefix_length, taken)
        result = AddressRange.of(home_id, chosen)
        for network in (result.v4, result.v6):
            _claim_route(names, netlink, network)
    return result


def release(home_id: str, netlink: Netlink, *, run_dir: Path) -> None:
    """Give up whatever this home claims; a no-op when it is nothing."""
    names = Names(home_id)
    with locked(run_dir):
        for network in _own_claims(names, netlink):
            netlink.delete_unreachable(network, protocol=ROUTE_PROTOCOL, priority=names.route_priority)


def locked(run_dir: Path) -> AbstractContextManager[None]:
    """
    Keep every home of this machine from claiming and releasing during a block.

    Raises:
        LockTimeoutError: another process has had the lock for too long.
    """
    return locked_file.locked(run_dir / LOCK_NAME)


def is_claimed(home_id: str, netlink: Netlink) -> bool:
    """Say whether this home claims a range, which it does from its first start until it is taken down."""
    return bool(_own_claims(Names(home_id), netlink))


def choose(supernet: IPv4Network, prefix_length: int, taken: dict[Network, str]) -> IPv4Network:
    """
    Pick the first range that overlaps nothing.

    Args:
        supernet: where to look.
        prefix_length: of the range.
        taken: networks in use, and by what.

    Raises:
        ResourceExhaustedError: all collide.
    """
    for candidate in supernet.subnets(new_prefix=prefix_length):
        if not _collisions(candidate, taken):
            return candidate
    users = sorted(set(_collisions(supernet, taken)))
    raise ResourceExhaustedError(
        f"no free /{prefix_length} in {supernet} for a home's sandboxes",
        details="; ".join(users[:8]),
        resolution="choose another supernet, or take down a home that is not needed",
    )


def _check(wanted: IPv4Network, taken: dict[Network, str]) -> IPv4Network:
    collisions = _collisions(wanted, taken)
    if collisions:
        raise FailedPreconditionError(
            f"this home's address range {wanted} collides with the host's network",
            details="; ".join(collisions[:8]),
            resolution="remove what collides; or, when no sandbox runs, the range from the home's home.json",
        )
    return wanted


def _has_slots(names: Names, netlink: Netlink) -> bool:
    return any(names.number(one) is not None for one in netlink.names().values())


def _collisions(network: IPv4Network, taken: dict[Network, str]) -> list[str]:
    return [
        f"{other} is {user}"
        for other, user in taken.items()
        if isinstance(other, IPv4Network) and other.overlaps(network)
    ]


def _taken(names: Names, netlink: Netlink) -> dict[Network, str]:
    links = netlink.names()
    own = {index for index, name in links.items() if names.number(name) is not None}
    taken: dict[Network, str] = {
        interface.network: f"an address's network on {links.get(index, index)}"
        for index, interface in netlink.addresses()
        if index not in own
    }
    for route in netlink.routes():
        if route.destination.prefixlen == 0 or route.link in own:
            continue
        if route.protocol == ROUTE_PROTOCOL and route.kind == "unreachable":
            if route.priority != names.route_priority:
                taken[route.destination] = f"the range of home {home_of_priority(route.priority)}"
        else:
            via = links.get(route.link, "no interface") if route.link else "no interface"
            taken.setdefault(route.destination, f"a route by {via}")
    return taken


def _own_claims(names: Names, netlink: Netlink) -> list[Network]:
    return [
        route.destination
        for route in netlink.routes()
        if route.protocol == ROUTE_PROTOCOL
        and route.kind == "unreachable"
        and route.priority == names.route_priority
    ]


def _claim_route(names: Names, netlink: Netlink, network: Network) -> None:
    if network not in _own_claims(names, netlink):
        netlink.add_unreachable(network, protocol=ROUTE_PROTOCOL, priority=names.route_priority)
