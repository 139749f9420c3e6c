"""Who vouches for sandboxes, from the settings."""

import pytest

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.identity import IdentityLimits
from atoll.server.main.issuing import issuer
from atoll.server.settings import ServerSettings, Settings, TLSSettings


def settings(domain: str = "", listen: str = "", **identity: str) -> Settings:
    return Settings(
        server=ServerSettings(domain=domain),
        tls=TLSSettings(listen=listen),
        identity=IdentityLimits(**identity),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("given", "address", "trust_domain"),
    [
        (settings(), "http://127.0.0.1:7777", "atoll-0a1b2c"),
        (settings("Sbx.test", "127.0.0.1:8443"), "https://api.sbx.test:8443", "sbx.test"),
        (settings("sbx.test", "0.0.0.0:443"), "https://api.sbx.test", "sbx.test"),
        (settings(issuer="https://id.example/a", trust_domain="a.b"), "https://id.example/a", "a.b"),
    ],
)
def test_a_home_has_an_address_and_a_trust_domain(given: Settings, address: str, trust_domain: str) -> None:
    found = issuer("0a1b2c", given)

    assert (found.address, found.trust_domain) == (address, trust_domain)


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "id.example"}, {"issuer": "https://id.example/"}, {"issuer": "https://id.example?x"},
        {"issuer": "https://me@id.example"}, {"issuer": "ftp://id.example"}, {"trust_domain": "A/b"},
    ],
)  # fmt: skip
def test_others_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"identity\."):
        issuer("0a1b2c", settings(**wrong))
