"""Which policies there can be, and what they mean."""

from ipaddress import ip_network

import pytest

from atoll.server.domain.egress import DOMAINS_NEED_DENY, EgressPolicy, checked, from_plain, to_plain
from atoll.server.domain.errors import InvalidArgumentError


def check(**fields: object) -> EgressPolicy:
    return checked(EgressPolicy(**fields), most_entries=4, most_dns_servers=2)  # type: ignore[arg-type]


def test_entries_are_told_apart_and_overlaps_disappear() -> None:
    policy = check(
        allow_out=("10.1.2.3/8", "10.0.0.0/8", "2001:db8::/32", "Api.Example.COM"), deny_out=("0.0.0.0/0",)
    )

    assert policy.domains == ("api.example.com",)
    assert policy.allowed(4) == (ip_network("10.0.0.0/8"),)
    assert policy.allowed(6) == (ip_network("2001:db8::/32"),)
    assert policy.denied(4) == (ip_network("0.0.0.0/0"),)
    assert policy.denies_all


def test_name_servers_are_reached_where_domains_are_allowed() -> None:
    with_domain = check(allow_out=("*.example",), deny_out=("0.0.0.0/0",), dns_servers=("9.9.9.9",))
    without = check(deny_out=("0.0.0.0/0",), dns_servers=("9.9.9.9", "9.9.9.9"))

    assert with_domain.allowed(4) == (ip_network("9.9.9.9"),)
    assert without.allowed(4) == ()
    assert without.dns_servers == ("9.9.9.9",)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"deny_out": ("example.com",)}, "invalid denied CIDR example.com"),
        ({"deny_out": ("",)}, "invalid denied CIDR "),
        ({"deny_out": ("1.1.1.1/33",)}, "invalid denied CIDR 1.1.1.1/33"),
        ({"deny_out": ("10.0.0.0/255.0.0.0",)}, "invalid denied CIDR"),
        ({"deny_out": ("fe80::1%eth0",)}, "invalid denied CIDR"),
        ({"deny_out": ("1.1.1.1 }; flush ruleset; {",)}, "invalid denied CIDR"),
        ({"deny_out": ("\udcff" + "x" * 1000,)}, "invalid denied CIDR \\udcffx"),
        ({"deny_out": ("1.1.1.1",) * 5}, "denyOut has 5 entries, at most 4"),
        ({"allow_out": ("1.1.1.1",) * 5}, "allowOut has 5 entries, at most 4"),
        ({"dns_servers": ("1.1.1.1",) * 3}, "dnsServers has 3 entries, at most 2"),
        ({"dns_servers": ("2001:db8::1",)}, "invalid DNS server 2001:db8::1"),
        ({"dns_servers": ("1.1.1.1/32",)}, "invalid DNS server"),
        ({"allow_out": ("example.com",)}, DOMAINS_NEED_DENY),
        ({"allow_out": ("example.com",), "deny_out": ("10.0.0.0/8",)}, DOMAINS_NEED_DENY),
        ({"allow_out": ("*",), "internet": False}, "invalid allowed entry *"),
        ({"allow_out": ("*.*.com",), "internet": False}, "invalid allowed entry"),
        ({"allow_out": ("a..b",), "internet": False}, "invalid allowed entry"),
        ({"allow_out": ("1.2.3",), "internet": False}, "invalid allowed entry 1.2.3"),
        ({"allow_out": ("https://example.com",), "internet": False}, "invalid allowed entry"),
        ({"allow_out": ("example.com:443",), "internet": False}, "invalid allowed entry"),
        ({"allow_out": (f"{'a' * 64}.com",), "internet": False}, "invalid allowed entry"),
        ({"allow_out": ("a." * 127 + "com",), "internet": False}, "invalid allowed entry"),
        ({"allow_out": ("b\u00fccher.example",), "internet": False}, "invalid allowed entry"),
    ],
)
def test_what_is_no_policy_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check(**fields)

    assert says in caught.value.message
    assert len(caught.value.message) < 400
    caught.value.message.encode()


def test_what_is_written_reads_the_same() -> None:
    policy = EgressPolicy(
        internet=False, allow_out=("a.example",), deny_out=("::/0",), dns_servers=("9.9.9.9",)
    )

    assert from_plain(to_plain(policy)) == policy
    assert to_plain(EgressPolicy()) == {"internet": True}


@pytest.mark.parametrize(
    "content", [{}, {"internet": 1}, {"internet": True, "x": 1}, {"internet": True, "allow_out": "a"}]
)
def test_what_has_another_form_is_no_policy(content: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        from_plain(content)
