"""What a webhook may be, where it may be, and how its deliveries are signed."""

import base64
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as some

from atoll.server.domain import webhooks as rules
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.events import Event, EventType
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
from atoll.server.domain.webhooks import may_reach, parse_networks

EVENT = Event(
    id="1",
    type=EventType.CREATED,
    team_id=TeamId("t"),
    sandbox_id=SandboxId("i" * 21),
    template_id=TemplateId("base-1"),
    generation=1,
    at=datetime(2026, 1, 1, tzinfo=UTC),
    data={"sandbox_metadata": {"ü": "☃ \" '"}},
)


@pytest.mark.parametrize("secret", ["s", "ü☃ with spaces", "x" * 1024])
def test_the_signature_is_what_openssl_computes(secret: str) -> None:
    sent = rules.body(EVENT)

    # As receivers do it, by other means: SHA-256 over both, in base64, made fit for URLs by hand.
    digest = subprocess.run(
        ["openssl", "dgst", "-sha256", "-binary"],
        input=secret.encode() + sent,
        capture_output=True,
        check=True,
    ).stdout
    encoded = subprocess.run(["openssl", "base64", "-A"], input=digest, capture_output=True, check=True)
    expected = encoded.stdout.decode().replace("+", "-").replace("/", "_").replace("=", "")
    assert rules.signature(secret, sent) == expected


def test_the_documented_signature_of_a_known_text() -> None:
    # printf 'secret{}' | sha256sum | xxd -r -p | base64 | tr '+/' '-_' | tr -d '='
    made = subprocess.run(
        "printf '%s' 'secret{}' | sha256sum | cut -c1-64", shell=True, capture_output=True, check=True
    ).stdout
    padded = rules.signature("secret", b"{}") + "="
    assert base64.urlsafe_b64decode(padded).hex() == made.decode().strip()


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook",
        "http://example.com",
        "HTTPS://Example.com:8443/a?b=c&d=%20",
        "https://1.1.1.1/x",
        "https://[2606:4700:4700::1111]/x",
    ],
)
def test_urls_that_webhooks_can_have(url: str) -> None:
    assert rules.check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "ftp://example.com/", "file:///etc/passwd", "gopher://x/", "https://", "https:///x",
        "https://user:password@example.com/", "https://user@example.com/", "https://example.com:0/",
        "https://example.com:65536/", "https://example.com:x/", "https://exa mple.com/", "https://example.com\\@x/",
        "https://example.com/\r\nHost: x", "https://example.com/\0", "https://exämple.com/", "https://example.com/#x",
        "https://[::1", "https://[::1]/", "http://127.0.0.1/", "http://127.0.0.1:7777/", "http://10.1.2.3/",
        "http://192.168.1.1/", "http://172.16.0.1/", "http://169.254.169.254/latest/meta-data/", "http://0.0.0.0/",
        "http://[::ffff:127.0.0.1]/", "http://[fe80::1]/", "http://[fd00::1]/", "http://100.64.0.1/",
        "https://example.com/" + "x" * 2048,
    ],
)  # fmt: skip
def test_urls_that_webhooks_cannot_have(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        rules.check_url(url)

    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.255", "0.0.0.0", "10.0.0.1", "172.31.255.255", "192.168.0.1",
        "169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "192.0.0.170", "192.88.99.1", "::", "::1", "fe80::1", "fec0::1", "fc00::1",
        "ff02::1", "::ffff:10.0.0.1", "::ffff:1.1.1.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::",
        "2001:0:7f00:1::", "2001:db8::1", "::127.0.0.1", "100::1", "5f00::1", "4000::1",
    ],
)  # fmt: skip
def test_addresses_where_no_webhook_may_be(address: str) -> None:
    public_in_disguise = address == "::ffff:1.1.1.1"

    assert may_reach(ip_address(address), ()) is public_in_disguise


def test_operators_name_networks_that_may_be_reached() -> None:
    allowed = parse_networks(" 127.0.0.0/8, fd00::/8 ,10.0.0.1")

    assert may_reach(ip_address("127.0.0.1"), allowed)
    assert may_reach(ip_address("::ffff:127.0.0.1"), allowed)
    assert may_reach(ip_address("fd00::1"), allowed)
    assert may_reach(ip_address("10.0.0.1"), allowed)
    assert not may_reach(ip_address("10.0.0.2"), allowed)
    assert rules.check_url("http://127.0.0.1:80/x", allowed) == "http://127.0.0.1:80/x"
    assert parse_networks("") == ()
    with pytest.raises(InvalidArgumentError, match=r"webhooks\.networks"):
        parse_networks("10.0.0.0/33")


@given(some.ip_addresses(v=4).filter(lambda address: address.is_private or address.is_multicast))
def test_no_private_address_may_be_reached_in_any_form(address: object) -> None:
    assert not may_reach(ip_address(str(address)), ())
    assert not may_reach(ip_address(f"::ffff:{address}"), ())
    assert not may_reach(ip_address(f"64:ff9b::{address}"), ())


@given(some.text(max_size=300))
def test_no_text_breaks_the_checks(text: str) -> None:
    for check in (rules.check_url, rules.check_name, rules.check_secret):
        with suppress(InvalidArgumentError):
            assert check(text) == text


def test_names_secrets_and_types_have_bounds() -> None:
    for bad in ("", "x" * 129, "a\nb", "\x1b[2J"):
        with pytest.raises(InvalidArgumentError):
            rules.check_name(bad)
    for bad in ("", "x" * 1025, "\ud800"):
        with pytest.raises(InvalidArgumentError):
            rules.check_secret(bad)
    with pytest.raises(InvalidArgumentError, match="at least one"):
        rules.check_events([])
    both = ["sandbox.lifecycle.killed", "sandbox.lifecycle.created", "sandbox.lifecycle.killed"]
    assert rules.check_events(both) == (EventType.KILLED, EventType.CREATED)
