"""
Each home claims an address range of its own.

The claim is an ``unreachable`` route for the range: other homes see it, whether or not their servers run, and
packets to a sandbox that is gone are refused at once instead of going out to the world.
The caller keeps the range (home.json) and asks for the same one at the next start.
Beside its claim each home has a record of where it is: home_records.py.
"""

from contextlib import AbstractContextManager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from atoll.server.domain.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError
from atoll.server.host import locked_file
from atoll.server.host.netlink import Netlink, Network, Route
from atoll.server.network.home_records import HomeRecord, HomeRecords
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
# In an error: all homes that there can be.
_MOST_TOLD = 16


def claim(
    home_id: str,
    netlink: Netlink,
    *,
    record: HomeRecord,
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
        record: of where the home is; written down.
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
    records = HomeRecords(run_dir)
    with locked(run_dir):
        # Once: with 300 sandboxes it takes 0.15 s of processor time, and whoever else starts waits for it.
        routes = netlink.routes()
        taken = _taken(names, netlink, routes, records)
        if wanted and _collisions(wanted, taken) and not _has_slots(names, netlink):
            # Somebody took it while this home was down; nothing of ours lives at its addresses.
            wanted = None
        chosen = _check(wanted, taken) if wanted else choose(supernet, prefix_length, taken)
        result = AddressRange.of(home_id, chosen)
        # Before the claim, of which nobody could say whose it is else.
        records.write(home_id, record)
        own = _claims(routes).get(home_id, [])
        for network in (result.v4, result.v6):
            if network not in own:
                netlink.add_unreachable(network, protocol=ROUTE_PROTOCOL, priority=names.route_priority)
    return result


def release(home_id: str, netlink: Netlink, *, run_dir: Path) -> None:
    """Give up whatever this home claims; a no-op when it is nothing."""
    with locked(run_dir):
        release_locked(home_id, netlink, run_dir=run_dir)


def release_locked(home_id: str, netlink: Netlink, *, run_dir: Path) -> None:
    """Do what ``release`` does, for who has the lock."""
    priority = Names(home_id).route_priority
    for network in claims(netlink).get(home_id, []):
        netlink.delete_unreachable(network, protocol=ROUTE_PROTOCOL, priority=priority)
    # Behind the claim: for as long as that is there, it can be said whose it is.
    HomeRecords(run_dir).remove(home_id)


def locked(run_dir: Path) -> AbstractContextManager[None]:
    """
    Keep every home of this machine from claiming and releasing during a block.

    Raises:
        LockTimeoutError: one other process has had the lock for too long.
    """
    return locked_file.locked(run_dir / LOCK_NAME)


def is_claimed(home_id: str, netlink: Netlink) -> bool:
    """Say whether this home claims a range, which it does from its first start until it is taken down."""
    return home_id in claims(netlink)


def claims(netlink: Netlink) -> dict[str, list[Network]]:
    """List what is claimed, by the homes' ids."""
    return _claims(netlink.routes())


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
    # Not each sandbox's route: whose it is, the range around it says.
    widest = {
        network: user
        for network, user in taken.items()
        if not any(other != network and _is_within(network, other) for other in taken)
    }
    raise ResourceExhaustedError(
        f"no free /{prefix_length} in {supernet} for a home's sandboxes",
        details="; ".join(sorted(_collisions(supernet, widest))[:_MOST_TOLD]),
        resolution="take down a home that is not needed: `atoll down --home DIRECTORY`; "
        "or `atoll down --home-id ID`, where its directory is gone or not known",
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


def _is_within(network: Network, other: Network) -> bool:
    match network, other:
        case (IPv4Network(), IPv4Network()):
            return network.subnet_of(other)
        case (IPv6Network(), IPv6Network()):
            return network.subnet_of(other)
    return False


def _taken(names: Names, netlink: Netlink, routes: list[Route], records: HomeRecords) -> dict[Network, str]:
    links = netlink.names()
    own = {index for index, name in links.items() if names.number(name) is not None}
    taken: dict[Network, str] = {
        interface.network: f"an address's network on {links.get(index, index)}"
        for index, interface in netlink.addresses()
        if index not in own
    }
    for route in routes:
        if route.destination.prefixlen == 0 or route.link in own:
            continue
        if _is_claim(route):
            if route.priority != names.route_priority:
                taken[route.destination] = _user(home_of_priority(route.priority), records)
        else:
            via = links.get(route.link, "no interface") if route.link else "no interface"
            taken.setdefault(route.destination, f"a route by {via}")
    return taken


def _user(home_id: str, records: HomeRecords) -> str:
    record = records.read(home_id)
    if record is None:
        return f"the range of home {home_id}, whose directory is not known"
    if record.is_gone(home_id):
        return f"the range of home {home_id}, which was at {record.directory} and is gone"
    return f"the range of home {home_id} at {record.directory}"


def _claims(routes: list[Route]) -> dict[str, list[Network]]:
    found: dict[str, list[Network]] = {}
    for route in routes:
        if _is_claim(route):
            found.setdefault(home_of_priority(route.priority), []).append(route.destination)
    return found


def _is_claim(route: Route) -> bool:
    return route.protocol == ROUTE_PROTOCOL and route.kind == "unreachable"
