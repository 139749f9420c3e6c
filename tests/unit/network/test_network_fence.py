"""The fence's rules as text, and what is asked of nftables when."""

import re
import struct
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.egress_proxy import EgressProxy
from atoll.server.domain.egress_rules import HeaderRule
from atoll.server.domain.errors import UnavailableError
from atoll.server.host.nftables import NftablesError, NoSuchObjectError
from atoll.server.network.fence import Fence
from atoll.server.network.findings import dropping_chains
from atoll.server.network.host_watch import HostWatch
from atoll.server.network.names import AddressRange, Names
from atoll.server.network.ruleset import PRIVATE4, PRIVATE6, Rules, ruleset

OPEN, CLOSED = EgressPolicy(internet=True), EgressPolicy(internet=False)


def rules(*, ipv6: bool = False) -> Rules:
    return Rules(
        names=Names("abc123"),
        addresses=AddressRange.of("abc123", IPv4Network("10.201.0.0/20")),
        dns_port=5301,
        egress_port=5302,
        ipv6=ipv6,
        on_link=(IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/64")),
    )


class Notebook:
    """Writes commands down instead of running them."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.errors: list[Exception] = []

    def run(self, commands: str) -> None:
        self.commands.append(commands)
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def fence(notebook: Notebook) -> Fence:
    fence = Fence(rules(), notebook)
    fence.put_up({})
    notebook.commands.clear()
    return fence


def test_the_table_is_made_anew_in_one_transaction(notebook: Notebook) -> None:
    Fence(rules(), notebook).put_up({7: OPEN})

    (commands,) = notebook.commands
    assert commands.startswith("table inet atoll_abc123\ndelete table inet atoll_abc123\n")
    assert commands.endswith("add element inet atoll_abc123 policies4 { 10.201.0.7 : goto open }")


def test_only_the_homes_own_interfaces_and_table_are_named() -> None:
    text = ruleset(rules())

    assert set(re.findall(r'"at[^"*]*\*"', text)) == {'"atabc123-*"', '"at*"'}
    assert set(re.findall(r"table inet (\w+)", text)) == {"atoll_abc123"}


def test_the_hosts_own_links_are_forbidden() -> None:
    text = ruleset(rules())

    assert "192.0.2.0/24 }" in text
    assert "2001:db8::/64 }" in text


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.169.254", "127.0.0.1",
     "0.0.0.0", "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "100.100.100.200",
     "168.63.129.16", "::1", "::", "::ffff:10.0.0.1", "fc00::1", "fd00:ec2::254", "fe80::1", "ff02::1",
     "64:ff9b::a00:1", "2002:a00:1::1", "::10.0.0.1"],
)  # fmt: skip
def test_private_and_metadata_addresses_are_in_the_lists(address: str) -> None:
    one = ip_address(address)
    lists = PRIVATE4 if one.version == 4 else PRIVATE6

    assert any(one in ip_network(network) for network in lists)


@pytest.mark.parametrize(
    "address",
    ["192.0.2.1", "198.51.100.1", "203.0.113.80", "1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1",
     "2606:4700::1111", "2a00:1450::1", "2001:db8::1"],
)  # fmt: skip
def test_public_and_documentation_addresses_are_not(address: str) -> None:
    one = ip_address(address)
    lists = PRIVATE4 if one.version == 4 else PRIVATE6

    assert not any(one in ip_network(network) for network in lists)


def test_a_slot_is_opened_by_one_element(fence: Fence, notebook: Notebook) -> None:
    fence.admit(9, OPEN)

    assert notebook.commands == ["add element inet atoll_abc123 policies4 { 10.201.0.9 : goto open }"]


def test_both_families_are_opened_at_once(notebook: Notebook) -> None:
    fence = Fence(rules(ipv6=True), notebook)

    fence.admit(9, CLOSED)

    (commands,) = notebook.commands
    assert commands.count("goto closed") == 2


def test_the_same_again_asks_nothing(fence: Fence, notebook: Notebook) -> None:
    fence.admit(9, OPEN)
    fence.admit(9, OPEN)

    assert len(notebook.commands) == 1


def test_another_policy_replaces_the_first_in_one_transaction(fence: Fence, notebook: Notebook) -> None:
    fence.admit(9, OPEN)
    fence.admit(9, CLOSED)

    assert notebook.commands[1].splitlines() == [
        "delete element inet atoll_abc123 policies4 { 10.201.0.9 }",
        "add element inet atoll_abc123 policies4 { 10.201.0.9 : goto closed }",
    ]


MIXED = EgressPolicy(
    allow_out=("1.1.1.0/24", "1.1.1.7", "2606:4700::/32"), deny_out=("0.0.0.0/0", "8.8.8.8/16")
)


def test_a_policy_of_networks_has_a_chain_of_its_own(fence: Fence, notebook: Notebook) -> None:
    fence.admit(9, MIXED)
    fence.admit(9, OPEN)

    made, unmade = notebook.commands
    assert made.splitlines() == [
        "add chain inet atoll_abc123 own_9",
        "add rule inet atoll_abc123 own_9 jump guarded",
        "add rule inet atoll_abc123 own_9 ip daddr { 1.1.1.0/24 } goto counted",
        "add rule inet atoll_abc123 own_9 ip6 daddr { 2606:4700::/32 } goto counted",
        "add rule inet atoll_abc123 own_9 ip daddr { 0.0.0.0/0 } goto refuse",
        "add rule inet atoll_abc123 own_9 goto refuse",
        "add element inet atoll_abc123 policies4 { 10.201.0.9 : goto own_9 }",
    ]
    assert unmade.splitlines() == [
        "delete element inet atoll_abc123 policies4 { 10.201.0.9 }",
        "flush chain inet atoll_abc123 own_9",
        "delete chain inet atoll_abc123 own_9",
        "add element inet atoll_abc123 policies4 { 10.201.0.9 : goto open }",
    ]


def test_what_goes_by_domains_is_led_to_the_edge(fence: Fence, notebook: Notebook) -> None:
    fence.admit(9, EgressPolicy(internet=False, allow_out=("a.example", "1.1.1.1")))
    fence.dismiss(9)

    made, unmade = notebook.commands
    assert made.splitlines() == [
        "add chain inet atoll_abc123 own_9",
        "add rule inet atoll_abc123 own_9 jump guarded",
        "add rule inet atoll_abc123 own_9 ip daddr { 1.1.1.1/32 } goto counted",
        "add rule inet atoll_abc123 own_9 meta nfproto ipv4 tcp dport { 80, 443 } goto led",
        "add rule inet atoll_abc123 own_9 goto refuse",
        "add chain inet atoll_abc123 lead_9",
        "add rule inet atoll_abc123 lead_9 ip daddr { 1.1.1.1/32 } return",
        "add rule inet atoll_abc123 lead_9 meta nfproto ipv4 tcp dport { 80, 443 } redirect to :5302",
        "add element inet atoll_abc123 by_domain4 { 10.201.0.9 : goto lead_9 }",
        "add element inet atoll_abc123 policies4 { 10.201.0.9 : goto own_9 }",
    ]
    assert unmade.splitlines() == [
        "delete element inet atoll_abc123 policies4 { 10.201.0.9 }",
        "delete element inet atoll_abc123 by_domain4 { 10.201.0.9 }",
        "flush chain inet atoll_abc123 lead_9",
        "delete chain inet atoll_abc123 lead_9",
        "flush chain inet atoll_abc123 own_9",
        "delete chain inet atoll_abc123 own_9",
    ]


RULE, PROXY = HeaderRule(domain="a.example"), EgressProxy(address="p:1")
WEB, TCP = "meta nfproto ipv4 tcp dport { 80, 443 }", "meta nfproto ipv4 meta l4proto tcp"


@pytest.mark.parametrize(
    ("policy", "judged", "led"),
    [
        (EgressPolicy(rules=(RULE,)), ["udp dport 443 goto refuse", "goto read"], [WEB]),
        (
            EgressPolicy(rules=(RULE,), deny_out=("8.8.8.8",)),
            ["udp dport 443 goto refuse", "ip daddr { 8.8.8.8/32 } goto refuse", "goto read"],
            [WEB],
        ),
        (
            EgressPolicy(rules=(RULE,), internet=False, allow_out=("1.1.1.1", "a.example")),
            [
                "udp dport 443 goto refuse",
                "ip daddr { 1.1.1.1/32 } goto read",
                f"{WEB} goto led",
                "goto refuse",
            ],
            [WEB],
        ),
        (EgressPolicy(proxy=PROXY), ["goto tunnelled"], [TCP]),
        (
            EgressPolicy(proxy=PROXY, internet=False, allow_out=("1.1.1.1",)),
            ["ip daddr { 1.1.1.1/32 } goto tunnelled", "goto refuse"],
            [TCP],
        ),
    ],
)
def test_what_is_read_or_tunnelled_goes_to_the_edge(
    fence: Fence, notebook: Notebook, policy: EgressPolicy, judged: list[str], led: list[str]
) -> None:
    fence.admit(9, policy)
    fence.dismiss(9)

    made, unmade = notebook.commands
    found = [line for line in made.splitlines() if line.startswith("add rule")]
    table = "add rule inet atoll_abc123"
    assert found == [
        f"{table} own_9 jump guarded",
        *(f"{table} own_9 {line}" for line in judged),
        *(f"{table} lead_9 {line} redirect to :5302" for line in led),
    ]
    assert "delete chain inet atoll_abc123 lead_9" in unmade


@pytest.mark.parametrize(
    "policy", [EgressPolicy(rules=(RULE,), internet=False), EgressPolicy(proxy=PROXY, internet=False)]
)
def test_nothing_of_who_reaches_nothing_goes_anywhere(
    fence: Fence, notebook: Notebook, policy: EgressPolicy
) -> None:
    fence.admit(9, policy)
    fence.dismiss(9)

    assert notebook.commands == [
        "add element inet atoll_abc123 policies4 { 10.201.0.9 : goto closed }",
        "delete element inet atoll_abc123 policies4 { 10.201.0.9 }",
    ]


def test_after_a_refusal_the_same_call_tries_again(fence: Fence, notebook: Notebook) -> None:
    fence.admit(9, OPEN)
    notebook.errors += [NftablesError("no"), NftablesError("no")]
    with pytest.raises(UnavailableError):
        fence.admit(9, CLOSED)

    fence.admit(9, CLOSED)

    assert notebook.commands[-1].splitlines() == [
        "delete element inet atoll_abc123 policies4 { 10.201.0.9 }",
        "add element inet atoll_abc123 policies4 { 10.201.0.9 : goto closed }",
    ]


def test_closing_what_is_closed_asks_nothing(fence: Fence, notebook: Notebook) -> None:
    fence.dismiss(9)

    assert notebook.commands == []


def test_a_flushed_fence_is_put_up_with_all_who_were_admitted(fence: Fence, notebook: Notebook) -> None:
    fence.admit(1, OPEN)
    notebook.errors.append(NoSuchObjectError("No such file or directory"))
    fence.admit(2, CLOSED)

    assert notebook.commands[-1] == ruleset(
        rules(),
        [
            "add element inet atoll_abc123 policies4 { 10.201.0.1 : goto open }",
            "add element inet atoll_abc123 policies4 { 10.201.0.2 : goto closed }",
        ],
    )


def test_a_refusal_says_what_nft_said(fence: Fence, notebook: Notebook) -> None:
    notebook.errors += [NftablesError("Error: no"), NftablesError("Operation not permitted")]

    with pytest.raises(UnavailableError) as caught:
        fence.admit(1, OPEN)

    assert caught.value.details == "Operation not permitted"
    assert caught.value.resolution


def test_chains_of_others_that_drop_are_found_and_ours_are_not() -> None:
    def chain(table: str, name: str, **base: str) -> dict[str, dict[str, str]]:
        return {"chain": {"family": "ip", "table": table, "name": name, **base}}

    chains = [
        {"metainfo": {"version": "1.0.6"}},
        chain("filter", "FORWARD", hook="forward", policy="drop"),
        chain("filter", "INPUT", hook="input", policy="accept"),
        chain("atoll_abc123", "through", hook="forward", policy="drop"),
        chain("filter", "DOCKER"),
    ]

    (finding,) = dropping_chains(chains)

    assert "ip filter FORWARD" in finding.message
    assert "DOCKER-USER" in finding.resolution


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


@pytest.mark.parametrize(
    ("protocol", "data", "concerns"),
    [
        (12, message((10 << 8) | 2, bytes(8) + b"atoll_abc123\0"), True),
        (12, message((10 << 8) | 2, bytes(8) + b"atoll_abc124\0"), False),
        (12, message((10 << 8) | 12, bytes(8) + b"atoll_abc123\0"), False),
        (12, message((10 << 8) | 12, b"x") + message((10 << 8) | 2, b"atoll_abc123\0"), True),
        (0, message(20, bytes([2, 24, 0, 0, 1, 0, 0, 0])), True),
        (0, message(20, bytes([2, 32, 0, 253, 1, 0, 0, 0])), False),
        (0, struct.pack("=IHHII", 3, 20, 0, 0, 0) + bytes(8), False),
        (0, b"short", False),
    ],
)
def test_only_news_that_matter_are_heard(protocol: int, data: bytes, concerns: bool) -> None:
    assert HostWatch("atoll_abc123")._concerns_us(data, protocol) is concerns
