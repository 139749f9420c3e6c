"""Which addresses a home takes, and what its things are called."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.server.domain.errors import InvalidArgumentError, ResourceExhaustedError
from atoll.server.host.netlink import Network
from atoll.server.network.names import AddressRange, Names, home_of_priority
from atoll.server.network.ranges import choose

SUPERNET = IPv4Network("10.201.0.0/16")


def test_the_first_range_is_taken_when_nothing_is_in_the_way() -> None:
    assert choose(SUPERNET, 20, {}) == IPv4Network("10.201.0.0/20")


@pytest.mark.parametrize(
    ("taken", "chosen"),
    [
        ("10.201.0.0/20", "10.201.16.0/20"),
        ("10.201.3.7/32", "10.201.16.0/20"),
        ("10.201.0.0/17", "10.201.128.0/20"),
        ("10.202.0.0/16", "10.201.0.0/20"),
    ],
)
def test_a_range_never_overlaps_what_the_host_uses(taken: str, chosen: str) -> None:
    assert choose(SUPERNET, 20, {IPv4Network(taken): "a route"}) == IPv4Network(chosen)


def test_ipv6_networks_are_not_in_the_way_of_ipv4() -> None:
    assert choose(SUPERNET, 20, {IPv6Network("::/0"): "a route"}) == IPv4Network("10.201.0.0/20")


def test_no_free_range_says_who_has_them() -> None:
    with pytest.raises(ResourceExhaustedError) as caught:
        choose(SUPERNET, 20, {IPv4Network("10.0.0.0/8"): "a route by tun0"})

    assert "10.0.0.0/8 is a route by tun0" in str(caught.value)


def test_no_free_range_names_all_homes_and_not_their_sandboxes() -> None:
    homes = {
        network: f"the range of home {number:06x} at /srv/{number}"
        for number, network in enumerate(SUPERNET.subnets(new_prefix=20))
    }
    sandboxes = {network[7]: "a route by ateth0-7" for network in homes}
    taken: dict[Network, str] = {**homes, **{IPv4Network(one): user for one, user in sandboxes.items()}}

    with pytest.raises(ResourceExhaustedError) as caught:
        choose(SUPERNET, 20, taken)

    assert all(f"{network} is {user}" in str(caught.value) for network, user in homes.items())
    assert "ateth0-7" not in str(caught.value)
    assert "`atoll down --home-id ID`" in str(caught.value.resolution)


@given(st.lists(st.integers(0, 255), max_size=14))
def test_fifteen_neighbours_leave_room_for_one_more(thirds: list[int]) -> None:
    taken = {IPv4Network(f"10.201.{third}.0/24"): "a route" for third in thirds}

    chosen = choose(SUPERNET, 20, dict(taken))

    assert not any(chosen.overlaps(other) for other in taken)


def test_a_range_gives_each_number_an_address_of_its_own() -> None:
    addresses = AddressRange.of("abc123", IPv4Network("10.201.16.0/20"))

    assert addresses.size == 4094
    assert addresses.address(1) == IPv4Address("10.201.16.1")
    assert addresses.address(4094) == IPv4Address("10.201.31.254")
    assert addresses.address6(4094) in addresses.v6
    assert addresses.v6.subnet_of(IPv6Network("fd00::/8"))


def test_homes_have_ipv6_ranges_of_their_own() -> None:
    v4 = IPv4Network("10.201.16.0/20")

    assert AddressRange.of("abc123", v4).v6 != AddressRange.of("abc124", v4).v6


@given(st.text("0123456789abcdef", min_size=6, max_size=6), st.integers(1, 65534))
def test_a_number_is_read_back_from_its_names(home_id: str, number: int) -> None:
    names = Names(home_id)

    assert names.number(names.veth(number)) == number
    assert names.number(names.namespace(number)) == number
    assert len(names.veth(number)) <= 15
    assert home_of_priority(names.route_priority) == home_id


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_each_slot_has_a_hardware_address_of_its_own(one: int, other: int) -> None:
    names = Names("abc123")

    assert (names.mac(one) == names.mac(other)) is (one == other)
    # Of one machine only, and locally administered.
    assert int(names.mac(one)[:2], 16) & 0b11 == 0b10
    assert Names("abc124").mac(one) != names.mac(one)


@pytest.mark.parametrize(
    "name", ["eth0", "atabc123-", "atabc123-1x", "atabc124-1", "atoll-abc124-1", "atabc123-²"]
)
def test_the_names_of_others_are_not_ours(name: str) -> None:
    assert Names("abc123").number(name) is None


@pytest.mark.parametrize("home_id", ["", "abc12", "abc1234", "ABC123", "abc12*", "abc\n12"])
def test_a_home_id_that_could_match_others_is_refused(home_id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Names(home_id)
