"""What the things are called that a home makes in the kernel, and the addresses that never change."""

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from atoll.server.domain.errors import InvalidArgumentError

# The same in every slot: it is inside every snapshot, in resolv.conf and in the routes.
GATEWAY = IPv4Address("169.254.1.1")
GATEWAY6 = IPv6Address("fe80::1")
# Both ends' hardware addresses are known to both from the start: so nobody needs to ask for them, and a
# sandbox cannot fill the host's neighbour table (1,024 entries for all) by asking under thousands of names.
# Locally administered. The gateway's is the same everywhere too; a sandbox has its own: Names.mac.
GATEWAY_MAC = "02:a7:01:00:00:01"
# The interface inside a slot. A new namespace has lo as number 1.
INSIDE = "eth0"
INSIDE_INDEX = 2
# Who made a route, for `ip route` and for us; not taken in iproute2's rt_protos.
ROUTE_PROTOCOL = 201
# On what the edge sends to the world for sandboxes: the fence then judges it as theirs. The bits are
# none that Kubernetes, Docker or Tailscale use.
EGRESS_MARK = 0x00A70000
# Slots of every home; no other program of note names interfaces so.
ANY_VETH = "at*"

# Groups of interfaces have 31 bits, and people number theirs from 1. The lower 24 are the home's id.
_GOING_GROUPS = 0x61000000
_HOME_ID = re.compile(r"[0-9a-f]{6}")


def is_home_id(text: str) -> bool:
    """Say whether this is the id of a home: 6 hexadecimal digits."""
    return _HOME_ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Names:
    """The names that belong to one home."""

    home_id: str

    def __post_init__(self) -> None:
        if not is_home_id(self.home_id):
            raise InvalidArgumentError(f"{self.home_id!r} is not a home id: 6 hexadecimal digits")

    @property
    def table(self) -> str:
        """The nftables table, of family inet."""
        return f"atoll_{self.home_id}"

    @property
    def veth_prefix(self) -> str:
        """What host sides of slots begin with."""
        return f"at{self.home_id}-"

    @property
    def namespace_prefix(self) -> str:
        """What namespaces begin with."""
        return f"atoll-{self.home_id}-"

    @property
    def route_priority(self) -> int:
        """The claimed route's metric: it tells other homes whose it is."""
        return int(self.home_id, 16) + 1

    @property
    def going_group(self) -> int:
        """The group that interfaces are put in to be removed together; nobody else's has such a number."""
        return _GOING_GROUPS + int(self.home_id, 16)

    def veth(self, number: int) -> str:
        """Name the host side of a slot; a number has 4 digits at most, an interface's name 15."""
        return f"{self.veth_prefix}{number}"

    def namespace(self, number: int) -> str:
        """Name a slot's namespace, which is also what the slot is called."""
        return f"{self.namespace_prefix}{number}"

    def mac(self, number: int) -> str:
        """Return the hardware address of the sandbox in a slot; no other one on this machine has it."""
        octets = bytes((0x06,)) + bytes.fromhex(self.home_id) + number.to_bytes(2)
        return octets.hex(":")

    def number(self, name: str) -> int | None:
        """Return the number of the slot that a namespace or interface belongs to, None if it is not ours."""
        for prefix in (self.veth_prefix, self.namespace_prefix):
            rest = name.removeprefix(prefix)
            if rest != name and rest.isascii() and rest.isdigit():
                return int(rest)
        return None


def home_of_priority(priority: int) -> str:
    """Return the id of the home whose claimed route has this metric."""
    return f"{priority - 1:06x}"


@dataclass(frozen=True, kw_only=True)
class AddressRange:
    """
    The addresses of one home's sandboxes. A slot's number is its address's place in the range.

    Attributes:
        v4: at least two bits wide.
        v6: a prefix of unique local addresses, 64 bits long; always there, used when the host has IPv6.
    """

    v4: IPv4Network
    v6: IPv6Network

    @classmethod
    def of(cls, home_id: str, v4: IPv4Network) -> "AddressRange":
        """Make the range of a home; its IPv6 part follows from the id (RFC 4193: 40 random bits)."""
        digest = hashlib.sha256(b"atoll home " + home_id.encode()).digest()
        return cls(v4=v4, v6=IPv6Network((b"\xfd" + digest[:5] + bytes(10), 64)))

    @property
    def size(self) -> int:
        """How many slots have an address: not the first and the last, which some programs take as special."""
        return self.v4.num_addresses - 2

    def address(self, number: int) -> IPv4Address:
        """Return the address of a slot; numbers go from 1 to ``size``."""
        assert 1 <= number <= self.size
        return self.v4[number]

    def address6(self, number: int) -> IPv6Address:
        """Return the IPv6 address of a slot."""
        assert 1 <= number <= self.size
        return self.v6[number]
