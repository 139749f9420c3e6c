"""How the edge speaks TLS and answers names: values, and the words by which it is told and tells them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EdgeACME:
    """
    An authority on the network that signs the certificate.

    Attributes:
        directory: its address.
        email: of whoever answers for the domain; the authority is told it.
        storage: directory of this alone, for account, key and certificate.
        roots: file with authorities of its own certificate, beside the host's; None for none.
    """

    directory: str
    email: str
    storage: Path
    roots: Path | None


@dataclass(frozen=True, kw_only=True)
class EdgeTLS:
    """
    How the edge speaks TLS.

    Attributes:
        domain: of the API and the sandboxes.
        listen: address for clients, ``host:port``.
        certificate: file with it and what signed it.
        key: file with its key; may be the same.
        names_listen: where this machine may ask for names of the domain, ``host:port``; None for nowhere.
        addresses: that these names have.
        dns_listen: where everybody may ask for them, ``host:port``; None for nowhere.
        acme: who is to sign another certificate, shown instead as soon as it is there; None: nobody.
    """

    domain: str
    listen: str
    certificate: Path
    key: Path
    names_listen: str | None
    addresses: tuple[str, ...]
    dns_listen: str | None = None
    acme: EdgeACME | None = None


def tls_words(tls: EdgeTLS | None) -> tuple[str, ...]:
    """Say it on the edge's command line."""
    if tls is None:
        return ()
    acme = tls.acme
    said = {
        "--domain": tls.domain,
        "--tls-listen": tls.listen,
        "--tls-cert": tls.certificate,
        "--tls-key": tls.key,
        "--zone-listen": tls.names_listen,
        "--public-zone-listen": tls.dns_listen,
        "--acme-directory": acme and acme.directory,
        "--acme-email": acme and acme.email,
        "--acme-storage": acme and acme.storage,
        "--acme-roots": acme and acme.roots,
    }
    addresses = (word for address in _addresses(tls) for word in ("--zone-address", address))
    return (*(word for name, value in said.items() if value for word in (name, str(value))), *addresses)


def tls_flags(tls: EdgeTLS | None) -> Mapping[str, Any]:
    """Say it as the edge's status does."""
    acme = tls and tls.acme
    return {
        "domain": tls.domain if tls else "",
        "zone_listen": (tls and tls.names_listen) or "",
        "zone_addresses": list(_addresses(tls)) or None if tls else None,
        "public_zone": (tls and tls.dns_listen) or "",
        "tls_listen": [tls.listen] if tls else None,
        "tls_cert": str(tls.certificate) if tls else "",
        "tls_key": str(tls.key) if tls else "",
        "acme_directory": acme.directory if acme else "",
        "acme_email": acme.email if acme else "",
        "acme_storage": str(acme.storage) if acme else "",
        "acme_roots": str((acme and acme.roots) or ""),
    }


def _addresses(tls: EdgeTLS) -> tuple[str, ...]:
    return tls.addresses if tls.names_listen or tls.dns_listen else ()
