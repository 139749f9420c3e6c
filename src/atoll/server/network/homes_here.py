"""Which homes have a claim or a record on this machine, for people to see. Changes nothing; blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from atoll.server.host.netlink import Netlink
from atoll.server.network import ranges
from atoll.server.network.dead_homes import claimed_range
from atoll.server.network.home_records import HomeRecord, HomeRecords
from atoll.server.network.kernel_errors import translated
from atoll.server.network.life import Life, life_of
from atoll.server.network.names import is_home_id


@dataclass(frozen=True, kw_only=True)
class HomeHere:
    """
    A home as others see it.

    Attributes:
        id: 6 hexadecimal digits.
        record: where it is; None: an older version started it.
        claimed: its range, None when it has none.
        life: what runs of it.
    """

    id: str
    record: HomeRecord | None
    claimed: IPv4Network | None
    life: Life

    @property
    def directory(self) -> Path | None:
        """Where it is, or was; None when nobody knows."""
        return self.record.directory if self.record else None

    @property
    def is_gone(self) -> bool:
        """Whether it is certainly not there any more."""
        return self.record is not None and self.record.is_gone(self.id)


def look(group_of: Callable[[str], str], *, run_dir: Path) -> list[HomeHere]:
    """
    List the homes, by their ids.

    Args:
        group_of: gives the control group of a home that has no record.
        run_dir: the directory that all homes of this machine share.

    Raises:
        UnavailableError: the kernel does not let us look.
    """
    with translated("look for homes on this machine"), Netlink() as netlink:
        claims, records = ranges.claims(netlink), HomeRecords(run_dir).read_all()
        found = []
        for home_id in sorted(set(records) | set(claims)):
            if not is_home_id(home_id):
                continue
            record, claimed = records.get(home_id), claimed_range(claims.get(home_id, []))
            group = record.cgroup if record else group_of(home_id)
            life = life_of(record, group=group, claimed=claimed)
            found.append(HomeHere(id=home_id, record=record, claimed=claimed, life=life))
        return found
