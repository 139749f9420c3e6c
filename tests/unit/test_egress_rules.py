"""Which rules about requests and which proxies there can be, and what is known of them where."""

from datetime import UTC, datetime

import pytest

from atoll.server.domain.egress import EgressPolicy, checked, fingerprint, from_plain, to_plain
from atoll.server.domain.egress_proxy import EgressProxy, ProxyTLS
from atoll.server.domain.egress_rules import FORBIDDEN, HeaderRule, RuleLimits, check_tokens_named
from atoll.server.domain.errors import AtollError, InvalidArgumentError, UnimplementedError
from atoll.server.edge.authority import make_egress_authority

LIMITS = RuleLimits(domains=2, headers=2)


def check(policy: EgressPolicy) -> EgressPolicy:
    return checked(policy, most_entries=4, most_dns_servers=2, rule_limits=LIMITS)


def ruled(*headers: tuple[str, str], domain: str = "a.example") -> EgressPolicy:
    return EgressPolicy(rules=(HeaderRule(domain=domain, headers=headers),))


def proxied(address: str = "p.example:1080", **more: object) -> EgressPolicy:
    return EgressPolicy(proxy=EgressProxy(address=address, **more))  # type: ignore[arg-type]


FULL = EgressPolicy(
    rules=(HeaderRule(domain="*.a.example", headers=(("X-A", "s3cret ${e2b.secrets.Key}"),)),),
    proxy=EgressProxy(
        address="[2001:db8::1]:1080",
        username="u",
        password="pa55",
        tls=ProxyTLS(server_name="p", ca_cert="cert"),
    ),
)


def test_rules_are_kept_in_lower_case_and_those_without_headers_go() -> None:
    policy = EgressPolicy(
        rules=(HeaderRule(domain="API.Example", headers=(("X", "y"),)), HeaderRule(domain="b.example"))
    )

    assert check(policy).rules == (HeaderRule(domain="api.example", headers=(("X", "y"),)),)


def test_secrets_are_found_as_they_are_written() -> None:
    value = (
        "a${e2b.secrets.One}b${e2b.secrets.two}${e2b.secrets.One}${e2b.secrets.}${other.x}${e2b.secrets.a{b}"
    )

    assert HeaderRule(domain="d", headers=(("X", value),)).secrets == ("One", "two", "")


def test_placeholders_are_found_as_they_are_written() -> None:
    value = "${e2b.identity.tokens.Aws}${e2b.identity.tokens.a b}${e2b.secrets.One}${e2b.identity.other}"
    rule = HeaderRule(domain="d", headers=(("X", value), ("Y", "${e2b.identity.tokens.Aws}")))

    assert rule.tokens == ("Aws", "a b")
    assert rule.placeholders == ("secrets.One", "identity.tokens.Aws", "identity.tokens.a b")


def test_rules_name_tokens_only_that_are_there() -> None:
    rules = ruled(("X", "hush ${e2b.identity.tokens.aws}")).rules
    check_tokens_named(rules, {"aws"})

    for there in ({"AWS"}, set[str]()):
        with pytest.raises(InvalidArgumentError, match=r"a\.example names iam token 'aws', which") as caught:
            check_tokens_named(rules, there)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        *((ruled((name.title(), "x")), "cannot be set") for name in sorted(FORBIDDEN)),
        (ruled(("", "x")), "invalid header name"),
        (ruled((":path", "x")), "invalid header name"),
        (ruled(("X\r\nY", "x")), "invalid header name X\\r\\nY"),
        (ruled(("X" * 65, "x")), "longer than 64"),
        (ruled(("X", "hush" * 513)), "2052 characters, at most 2048"),
        (ruled(("X", "hush\n")), "no header can have"),
        (ruled(("X", "hush\x00")), "no header can have"),
        (ruled(("X", "hush\u00e4")), "no header can have"),
        (ruled(("X", "hush"), ("x", "hush")), "twice"),
        (ruled(("X", "a"), ("Y", "b"), ("Z", "c")), "3 headers, at most 2"),
        (ruled(("X", "a"), domain="10.0.0.1"), "invalid rule domain 10.0.0.1"),
        (ruled(("X", "a"), domain="10.0.0.0/8"), "invalid rule domain"),
        (ruled(("X", "a"), domain="a.example:443"), "invalid rule domain"),
        (ruled(("X", "a"), domain="*"), "invalid rule domain"),
        (EgressPolicy(rules=(HeaderRule(domain="a.b"),) * 3), "3 domains, at most 2"),
        (EgressPolicy(rules=(HeaderRule(domain="a.b"), HeaderRule(domain="A.b"))), "twice"),
        (proxied(""), "must be host:port"),
        (proxied("p.example"), "must be host:port"),
        (proxied("p.example:0"), "must be host:port"),
        (proxied("p.example:65536"), "must be host:port"),
        (proxied("p.example:\u0661"), "must be host:port"),
        (proxied(":1080"), "no host name"),
        (proxied("::1:1080"), "no host name"),
        (proxied("[::1%eth0]:1080"), "no host name"),
        (proxied("[127.0.0.1]:1080"), "no host name"),
        (proxied("127.1:1080"), "no host name"),
        (proxied("user:hush@p.example:1080"), "no host name"),
        (proxied("socks5://p.example:1080"), "no host name"),
        (proxied(password="hush"), "needs a username"),
        (proxied(username="u" * 256), "256 bytes, at most 255"),
        (proxied(username="u", password="\u00fc" * 128), "256 bytes, at most 255"),
        (proxied(username="u", password="\udcff"), "not valid Unicode"),
        (proxied(tls=ProxyTLS(server_name="a b")), "no host name"),
        (proxied(tls=ProxyTLS(ca_cert="x" * 8193)), "longer than 8192"),
        (proxied(tls=ProxyTLS(ca_cert="hush")), "no certificate"),
    ],
)
def test_what_cannot_be_is_refused_without_its_secrets(policy: EgressPolicy, says: str) -> None:
    with pytest.raises((InvalidArgumentError, UnimplementedError)) as caught:
        check(policy)

    error: AtollError = caught.value
    assert says in error.message
    assert "hush" not in error.message.replace("user:hush@", "")


def test_proxies_that_can_be() -> None:
    ca_cert = make_egress_authority("test", datetime.now(UTC)).certificate.decode()
    for address in ("p:1", "p.example:65535", "192.0.2.1:1080", "[2001:db8::1]:1080"):
        check(proxied(address, username="u", password="p", tls=ProxyTLS(server_name="q", ca_cert=ca_cert)))


def test_what_is_written_of_rules_and_proxies_reads_the_same() -> None:
    assert from_plain(to_plain(FULL)) == FULL
    assert from_plain(to_plain(proxied())) == proxied()
    assert fingerprint(FULL) != fingerprint(FULL.fenced())


@pytest.mark.parametrize(
    "more",
    [
        {"rules": 1},
        {"rules": [{}]},
        {"rules": [{"domain": "a", "headers": {"a": 1}}]},
        {"proxy": None},
        {"proxy": {"address": "p:1"}},
        {"proxy": {"address": "p:1", "username": "", "password": "", "tls": 1}},
    ],
)
def test_what_has_another_form_is_neither(more: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        from_plain({"internet": True, **more})


def test_the_machine_and_whoever_prints_a_policy_see_no_secrets() -> None:
    for text in (repr(FULL), repr(to_plain(FULL.fenced()))):
        assert not any(word in text for word in ("s3cret", "pa55", "cert"))
