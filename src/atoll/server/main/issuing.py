"""Who vouches for sandboxes: the address and the trust domain of a home, from its settings."""

from urllib.parse import urlsplit

from atoll.server.control.owned.identity import Issuer
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.hostnames import parse_domain
from atoll.server.domain.identity import check_trust_domain
from atoll.server.main import doors
from atoll.server.settings import Settings


def issuer(home_id: str, settings: Settings) -> Issuer:
    """
    Say who vouches.

    Raises:
        InvalidArgumentError: a setting has another form.
    """
    tls = bool(settings.tls.listen)
    wanted = settings.identity
    address = wanted.issuer
    if not address and tls:
        address = f"https://api.{doors.public_domain(settings)}"
    elif not address:
        address = f"http://{settings.server.listen}"
    else:
        _check(address)
    domain = wanted.trust_domain or (parse_domain(settings.server.domain) if tls else f"atoll-{home_id}")
    return Issuer(address=address, trust_domain=check_trust_domain(domain))


def _check(address: str) -> None:
    parts = urlsplit(address)
    plain = not parts.query and not parts.fragment and not address.endswith("/") and parts.username is None
    if parts.scheme not in ("https", "http") or not parts.hostname or not plain:
        raise InvalidArgumentError(
            f"{address!r} is no address of an issuer (identity.issuer)",
            resolution="https://identity.example.com, say: no slash at the end, no query.",
        )
