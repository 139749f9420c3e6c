"""
The names and certificates under which clients reach a home over TLS, from its settings.

Says what the edge is to be started with, and keeps the certificate young.
"""

import asyncio
from datetime import timedelta
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.errors import AtollError, InvalidArgumentError
from atoll.server.domain.hostnames import parse_domain, parse_listen, parse_ports
from atoll.server.edge.certificates import LocalAuthority, check_own, unpublish
from atoll.server.edge.tls import EdgeACME, EdgeTLS
from atoll.server.settings import Settings, TLSSettings
from atoll.server.settings.home import Home

log = structlog.get_logger(__name__)

# Between two looks at the certificate, which has weeks left when it is renewed.
_LOOK = timedelta(hours=12)
_HTTPS = "443"


def public_domain(settings: Settings) -> str:
    """Return the domain with the port of TLS, which clients take as E2B_DOMAIN."""
    port = settings.tls.listen.rpartition(":")[2]
    domain = parse_domain(settings.server.domain)
    return domain if port == _HTTPS else f"{domain}:{port}"


def read(home: Home, settings: Settings) -> EdgeTLS | None:
    """
    Say what the edge is to be started with, for TLS; None for none.

    Raises:
        InvalidArgumentError: the settings contradict each other, or name no address.
    """
    parse_listen(settings.server.listen)
    tls = settings.tls
    if not tls.listen:
        if tls.cert or tls.key or tls.acme_email:
            raise InvalidArgumentError("A certificate is of no use without --tls-listen (tls.listen)")
        if tls.dns_listen:
            raise InvalidArgumentError("--dns-listen is of no use without --tls-listen (tls.listen)")
        return None
    if not settings.server.domain:
        raise InvalidArgumentError(
            "TLS needs a domain", resolution="--domain sbx.test, say; sandboxes get names below it."
        )
    domain = parse_domain(settings.server.domain)
    parse_listen(tls.listen)
    if bool(tls.cert) != bool(tls.key):
        raise InvalidArgumentError("A certificate needs its key, and a key its certificate")
    made = LocalAuthority(home.certificates, domain).server_file
    parse_ports(tls.hosts_ports)
    ours = names_listen(home.id, tls.names_listen)
    addresses = names_addresses(tls)
    return EdgeTLS(
        domain=domain,
        listen=tls.listen,
        certificate=Path(tls.cert).absolute() if tls.cert else made,
        key=Path(tls.key).absolute() if tls.key else made,
        names_listen=ours,
        addresses=addresses,
        dns_listen=dns_listen(tls.dns_listen, ours, addresses),
        acme=acme(tls, home.certificates / domain / "acme"),
    )


def names_listen(home_id: str, wanted: str) -> str | None:
    """
    Say where names are answered: where it is wanted, or at an address that only this home has.

    Raises:
        InvalidArgumentError: that is no address of loopback: anybody could have us ask for him.
    """
    if wanted == "off":
        return None
    if not wanted:
        first, second, third = bytes.fromhex(home_id)
        # Above what people and systemd-resolved (127.0.0.53) use, below what is broadcast.
        return f"127.{64 + first % 128}.{second}.{1 + third % 254}:53"
    host, _, port = wanted.rpartition(":")
    try:
        fits = IPv4Address(host).is_loopback and 0 < int(port) < 65536
    except ValueError:
        fits = False
    if not fits:
        raise InvalidArgumentError(
            f"{wanted!r} is no address for this machine's questions",
            resolution="An address of loopback with a port: 127.0.0.2:53, say; or off.",
        )
    return wanted


def names_addresses(tls: TLSSettings) -> tuple[str, ...]:
    """
    Say which addresses names have.

    Raises:
        InvalidArgumentError: what is listed is no address, or the listener is at a name.
    """
    host = tls.listen.rpartition(":")[0].strip("[]")
    listed = [word.strip() for word in tls.names_addresses.split(",") if word.strip()] or [host or "::"]
    try:
        addresses = [ip_address(word) for word in listed]
    except ValueError as error:
        raise InvalidArgumentError(
            f"Names need addresses: {error}", resolution="Listen on one, or set tls.names_addresses."
        ) from error
    found: list[str] = []
    for address in addresses:
        if address.is_unspecified:
            found += ["127.0.0.1"] if address.version == 4 else ["127.0.0.1", "::1"]
        else:
            found.append(str(address))
    return tuple(found)


def dns_listen(wanted: str, ours: str | None, addresses: tuple[str, ...]) -> str | None:
    """
    Say where everybody may ask for names of the domain; None for nowhere.

    Raises:
        InvalidArgumentError: no address, or a taken one, or names would lead who asks to himself.
    """
    if not wanted:
        return None
    host, port = parse_listen(wanted)
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        raise InvalidArgumentError(
            f"{wanted!r} is no address for the world's questions",
            resolution="An address of this machine with a port: 192.0.2.1:53, say.",
        ) from None
    if address.is_unspecified and ours and int(ours.rpartition(":")[2]) == port:
        raise InvalidArgumentError(
            f"{wanted} takes {ours} too, where this machine asks",
            resolution="Name one address of this machine, or set tls.names_listen to off.",
        )
    if not address.is_loopback and all(ip_address(one).is_loopback for one in addresses):
        raise InvalidArgumentError(
            f"Whoever asks at {wanted} would be sent to himself: names lead to {', '.join(addresses)}",
            resolution="ATOLL_TLS_NAMES_ADDRESSES (tls.names_addresses): addresses that the world reaches.",
        )
    return wanted


def acme(tls: TLSSettings, storage: Path) -> EdgeACME | None:
    """
    Say who is to sign the certificate; None: nobody on the network.

    Raises:
        InvalidArgumentError: the settings contradict each other, or are none.
    """
    if not tls.acme_email:
        return None
    if tls.cert:
        raise InvalidArgumentError("Either your own certificate (--tls-cert) or one by ACME (--acme-email)")
    name, _, host = tls.acme_email.rpartition("@")
    if not name or not host or not tls.acme_email.isprintable() or " " in tls.acme_email:
        raise InvalidArgumentError(f"{tls.acme_email!r} is no mail address (--acme-email)")
    directory = urlsplit(tls.acme_directory)
    if directory.scheme != "https" or not directory.hostname:
        raise InvalidArgumentError(
            f"{tls.acme_directory!r} is no address of an ACME directory (--acme-directory)",
            resolution="It begins with https://.",
        )
    if not tls.dns_listen:
        raise InvalidArgumentError(
            "ACME needs --dns-listen",
            details="An authority signs for all names of a domain when it finds its record there.",
            resolution="--dns-listen ADDRESS:53, and have the domain delegated to it (docs/tls.md).",
        )
    roots = Path(tls.acme_ca_bundle).absolute() if tls.acme_ca_bundle else None
    if roots is not None and not roots.is_file():
        raise InvalidArgumentError(f"There is no file {roots} (--acme-ca-bundle)")
    return EdgeACME(directory=tls.acme_directory, email=tls.acme_email, storage=storage, roots=roots)


class Doors:
    """TLS of one home: ``open``, then ``watch``; nothing happens where none is set."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._clock = SystemClock()
        # What the edge is to be started with, once open.
        self.tls: EdgeTLS | None = None

    async def open(self) -> None:
        """
        Have a certificate, and let programs know whom to trust.

        Raises:
            InvalidArgumentError: the settings contradict each other, or the operator's own certificate will
                not do.
            InternalError: the home's own authority is damaged.
        """
        self.tls = read(self._home, self._settings)
        await asyncio.to_thread(self._look)

    async def watch(self) -> None:
        """Renew the certificate long before it ends, until cancelled."""
        while True:
            await self._clock.sleep_until(self._clock.now() + _LOOK)
            try:
                await asyncio.to_thread(self._look)
            except (AtollError, OSError) as error:
                # The edge goes on with what it has; the next look may find it mended.
                log.warning("certificate not renewed", error=str(error))

    async def take_down(self) -> None:
        """Remove what is outside of the home."""
        await asyncio.to_thread(unpublish, self._home.public)

    def _look(self) -> None:
        now = self._clock.now()
        if self.tls is None or self.tls.acme or self._settings.tls.cert:
            unpublish(self._home.public)
        if self.tls is None:
            return
        if self._settings.tls.cert:
            for warning in check_own(self.tls.certificate, self.tls.key, self.tls.domain, now):
                log.warning("certificate ends soon", reason=warning)
            return
        authority = LocalAuthority(self._home.certificates, self.tls.domain)
        authority.ensure(now)
        if self.tls.acme is None:
            authority.publish(self._home.public)
