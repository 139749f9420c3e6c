"""What settings of TLS mean, and which of them contradict each other."""

from pathlib import Path

import pytest

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.hostnames import parse_listen
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
