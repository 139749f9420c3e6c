"""
What is done once for a home: before its first slot, and after its last.

For main and the command line. Everything here blocks, and must not be called in an event loop's thread
(``asyncio.to_thread``); none of it needs a running server.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from atoll.server.domain.errors import ResourceExhaustedError
from atoll.server.host.netlink import Netlink
from atoll.server.host.nftables import Nftables
from atoll.server.network import dead_homes, fence, making, ranges, uplink
from atoll.server.network.home_records import HomeRecord
from atoll.server.network.host_settings import Change, HostSettings, needed
from atoll.server.network.kernel_errors import translated
from atoll.server.network.names import AddressRange, Names
from atoll.server.network.records import Records

RUN_DIR = Path("/run/atoll")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """
    What a home has now.

    Attributes:
        addresses: its range; keep ``addresses.v4`` in home.json and pass it next time.
        changes: the host settings that were changed, to be shown to the operator.
    """

    addresses: AddressRange
    changes: tuple[Change, ...]


def prepare(
    home_id: str,
    *,
    record: HomeRecord,
    wanted: IPv4Network | None = None,
    supernet: IPv4Network = ranges.SUPERNET,
    prefix_length: int = ranges.PREFIX_LENGTH,
    run_dir: Path = RUN_DIR,
) -> Prepared:
    """
    Claim an address range and have the host's settings as sandboxes need them; again is the same.

    Removes what dead homes left, too.

    Args:
        home_id: 6 hexadecimal digits.
        record: where the home is; what it has is given up once that is deleted.
        wanted: the range that the home had before, None at its first start.
        supernet: where to look for a free one.
        prefix_length: how wide it is to be.
        run_dir: shared by all homes of this machine.

    Raises:
        FailedPreconditionError: the wanted range collides with something on this host.
        ResourceExhaustedError: no range is free.
        UnavailableError: the kernel refused.
    """
    changes: list[Change] = []

    def claim() -> AddressRange:
        return ranges.claim(
            home_id,
            netlink,
            record=record,
            wanted=wanted,
            supernet=supernet,
            prefix_length=prefix_length,
            run_dir=run_dir,
        )

    with _packetfilter() as nftables:
        with translated("claim an address range"), Netlink() as netlink:
            host = uplink.read(netlink)
            try:
                addresses = claim()
            except ResourceExhaustedError:
                changes += dead_homes.sweep(nftables, run_dir=run_dir)
                addresses = claim()
        changes += HostSettings(home_id, run_dir=run_dir).hold(needed(host))
        # Behind our own hold: what we need is not put back only to be set again.
        changes += dead_homes.sweep(nftables, run_dir=run_dir)
    return Prepared(addresses=addresses, changes=tuple(changes))


def teardown(home_id: str, *, slots_dir: Path, run_dir: Path = RUN_DIR) -> tuple[Change, ...]:
    """
    Remove everything of a home from the network, and put the host's settings back if it was the last one.

    The home's sandboxes must be gone. Again, or for a home that never was, does nothing.

    Returns:
        what was put back, and what was left alone because somebody else changed it.

    Raises:
        UnavailableError: the kernel refused; calling again may help.
    """
    names = Names(home_id)
    making.remove_slots(names)
    # Before the fence: a server that still runs does not put up the fence of a home without a range.
    with translated("give the address range up"), Netlink() as netlink:
        ranges.release(home_id, netlink, run_dir=run_dir)
    with _packetfilter() as nftables:
        fence.take_down(names, nftables)
        making.unprepare(run_dir)
        Records(slots_dir).clear()
        changes = HostSettings(home_id, run_dir=run_dir).release()
        return (*changes, *dead_homes.sweep(nftables, run_dir=run_dir))


@contextlib.contextmanager
def _packetfilter() -> Iterator[Nftables]:
    with translated("load the packet filter's library"):
        nftables = Nftables()
    try:
        yield nftables
    finally:
        nftables.close()
