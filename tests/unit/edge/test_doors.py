"""What settings of TLS mean, and which of them contradict each other."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from atoll.cli import certificate
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.hostnames import parse_listen
from atoll.server.edge.tls import tls_flags, tls_words
from atoll.server.main import doors
from atoll.server.main.serving import public_domain
from atoll.server.settings import ServerSettings, Settings, TLSSettings
from atoll.server.settings.home import Home


def settings(domain: str, **tls: str) -> Settings:
    return Settings(server=ServerSettings(domain=domain), tls=TLSSettings(**tls))


def home(path: Path) -> Home:
    return Home(path=path, id="0a1b2c", cache=path)


def test_without_tls_nothing_changes(tmp_path: Path) -> None:
    assert doors.read(home(tmp_path), settings("")) is None
    assert public_domain(settings("")) == "localhost:7777"
    assert public_domain(settings("boxes.example:81")) == "boxes.example:81"


@pytest.mark.parametrize(
    ("listen", "domain"),
    [("127.0.0.1:8443", "sbx.test:8443"), ("0.0.0.0:443", "sbx.test"), (":443", "sbx.test")],
)
def test_host_names_carry_the_port_of_tls(listen: str, domain: str) -> None:
    assert public_domain(settings("Sbx.test", listen=listen)) == domain


@pytest.mark.parametrize(
    ("domain", "tls", "told"),
    [
        ("", {"listen": "127.0.0.1:8443"}, "needs a domain"),
        ("localhost:7777", {"listen": "127.0.0.1:8443"}, "no domain"),
        ("sbx.test", {"listen": "8443x"}, "no address"),
        ("sbx.test", {"listen": "127.0.0.1:0"}, "no address"),
        ("sbx.test", {"listen": "127.0.0.1:8443", "cert": "a.pem"}, "needs its key"),
        ("sbx.test", {"listen": "127.0.0.1:8443", "key": "a.pem"}, "needs its key"),
        ("sbx.test", {"cert": "a.pem", "key": "a.pem"}, "no use"),
        ("sbx.test", {"acme_email": "a@sbx.test"}, "no use"),
        ("sbx.test", {"dns_listen": "192.0.2.1:53"}, "no use"),
    ],
)
def test_contradictions_are_told(tmp_path: Path, domain: str, tls: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        doors.read(home(tmp_path), settings(domain, **tls))


@pytest.mark.parametrize(
    "listen",
    ["foo", "127.0.0.1", "127.0.0.1:", "127.0.0.1:abc", "127.0.0.1:99999", "127.0.0.1:0", "::1:80", "a b:80",
     "http://h:80", "127.0.0.1:-1", "127.0.0.1:\N{ARABIC-INDIC DIGIT FIVE}", "127.0.0.1:" + "9" * 5000],
)  # fmt: skip
def test_what_is_no_address_is_said_before_anything_is_built(tmp_path: Path, listen: str) -> None:
    plain = Settings(server=ServerSettings(listen=listen))
    tls = settings("sbx.test", listen=listen)

    for given in (plain, tls):
        with pytest.raises(InvalidArgumentError, match="no address to listen on"):
            doors.read(home(tmp_path), given)


@pytest.mark.parametrize(
    ("listen", "parsed"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:80", ("[::1]", 80)),
        (":443", ("", 443)),
        ("a.b:65535", ("a.b", 65535)),
    ],
)
def test_addresses_are_host_and_port(listen: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(listen) == parsed


def public(**tls: str) -> Settings:
    """Serve the world, as it is to be."""
    usual = {"listen": "0.0.0.0:443", "names_addresses": "192.0.2.1", "dns_listen": "192.0.2.1:53"}
    return settings("sbx.test", **(usual | {"acme_email": "who@sbx.test"} | tls))


def test_a_domain_for_the_world_is_told_to_the_edge(tmp_path: Path) -> None:
    tls = doors.read(home(tmp_path), public(acme_ca_bundle=__file__))

    assert tls is not None
    flags = tls_flags(tls)
    assert flags["public_zone"] == "192.0.2.1:53"
    assert flags["zone_addresses"] == ["192.0.2.1"]
    assert flags["acme_directory"] == "https://acme-v02.api.letsencrypt.org/directory"
    assert flags["acme_storage"] == str(tmp_path / "tls" / "sbx.test" / "acme")
    said = " ".join(tls_words(tls))
    assert "--acme-email who@sbx.test" in said
    assert f"--acme-roots {__file__}" in said
    assert "--public-zone-listen 192.0.2.1:53 " in said
    assert said.endswith("--zone-address 192.0.2.1")


def test_all_addresses_may_be_asked_where_this_machine_asks_elsewhere(tmp_path: Path) -> None:
    tls = doors.read(home(tmp_path), public(dns_listen="0.0.0.0:53", names_listen="off"))

    assert tls is not None
    assert (tls.dns_listen, tls.names_listen) == ("0.0.0.0:53", None)
    assert tls_flags(tls)["zone_addresses"] == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        ({"dns_listen": ""}, "ACME needs --dns-listen"),
        ({"dns_listen": "ns.example.org:53"}, "no address for the world"),
        ({"dns_listen": "192.0.2.1"}, "no address"),
        ({"dns_listen": "0.0.0.0:53"}, "takes 127.*too"),
        ({"dns_listen": "[::]:53"}, "takes 127.*too"),
        ({"names_addresses": ""}, "sent to himself"),
        ({"names_addresses": "127.0.0.1,::1"}, "sent to himself"),
        ({"cert": "a.pem", "key": "a.pem"}, "Either your own"),
        ({"acme_email": "nobody"}, "no mail address"),
        ({"acme_email": "a b@sbx.test"}, "no mail address"),
        ({"acme_email": "a@sbx.test\n"}, "no mail address"),
        ({"acme_directory": "http://plain.example/dir"}, "begins with https"),
        ({"acme_directory": "https://"}, "begins with https"),
        ({"acme_ca_bundle": "/nowhere.pem"}, "There is no file"),
    ],
)
def test_what_the_world_would_not_find_is_told(tmp_path: Path, tls: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        doors.read(home(tmp_path), public(**tls))
    assert re.search(told, str(refused.value))


NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("shown", "directory", "status", "told"),
    [
        ({"ends_at": "2026-07-01T00:00:00Z", "signed": True}, "https://a/dir", "ok", "until 2026-07-01"),
        ({"ends_at": "2026-07-01T00:00:00Z", "signed": False}, "", "ok", "until 2026-07-01"),
        ({"ends_at": "2026-07-01T00:00:00Z", "signed": False}, "https://a/dir", "warn", "none yet"),
        (
            {"ends_at": "2026-07-01T00:00:00Z", "signed": False, "failure": "no TXT"},
            "https://a/dir",
            "fail",
            "none from https://a/dir: no TXT",
        ),
        (
            {"ends_at": "2026-05-20T00:00:00Z", "signed": True, "failure": "too many"},
            "https://a/dir",
            "warn",
            "not renewed: too many",
        ),
        ({"ends_at": "2026-05-01T12:00:00Z", "signed": False}, "", "warn", "until 2026-05-01 12:00"),
        ({"ends_at": "2026-04-30T00:00:00Z", "signed": True}, "https://a/dir", "fail", "ended 2026-04-30"),
    ],
)
def test_doctor_says_how_it_is_about_the_certificate(
    shown: dict[str, object], directory: str, status: str, told: str
) -> None:
    found = certificate.judge(shown, directory, NOW)

    assert found.status == status
    assert told in found.message
    assert status == "ok" or found.resolution
