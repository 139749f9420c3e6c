"""
Certificate authorities that this host trusts beyond the usual ones: a company's proxy, say.

Templates trust them too, so that pip, npm and curl work inside as they do outside.
"Usual" is what Mozilla's list has: the host's package ca-certificates, and certifi. That is known before a
template is built, so it can be part of the recipe's hash; and an authority that Debian's newer list has
dropped does not come back through an older host.
Certificates are compared by the hash of their bytes. Only reads.
"""

import base64
import binascii
import hashlib
import os
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import certifi
import structlog

log = structlog.get_logger(__name__)

HOST_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian and its kin
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Red Hat and its kin
)
MOZILLA = Path("/usr/share/ca-certificates/mozilla")
# A host's bundle has some 150 authorities and 0.25 MB; more extras than this is a wrong file.
MOST_BYTES = 8 * 1024 * 1024
MOST_EXTRAS = 200

_BLOCK = re.compile(
    rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----\s*([A-Za-z0-9+/=\s]+?)-----END (?:TRUSTED )?CERTIFICATE-----"
)


@dataclass(frozen=True, order=True)
class Authority:
    """A certificate: the SHA-256 of its DER form, in hexadecimal digits, and itself as PEM."""

    fingerprint: str
    pem: str


def host_extras(environ: Mapping[str, str] = os.environ) -> tuple[Authority, ...]:
    """Return what this host trusts beyond the usual authorities, sorted by fingerprint."""
    trusted = [*HOST_BUNDLES]
    if named := environ.get("SSL_CERT_FILE"):
        trusted.append(Path(named))
    usual = [Path(certifi.where()), *sorted(MOZILLA.glob("*.crt"))]
    return extras(trusted, usual)


def extras(trusted: Iterable[Path], usual: Iterable[Path]) -> tuple[Authority, ...]:
    """Return the certificates that are in files of ``trusted`` and in none of ``usual``, sorted."""
    known = {authority.fingerprint for path in usual for authority in parse(_content(path))}
    found = {
        authority.fingerprint: authority
        for path in trusted
        for authority in parse(_content(path))
        if authority.fingerprint not in known
    }
    sound = sorted(authority for authority in found.values() if _is_certificate(authority))
    if len(sound) > MOST_EXTRAS:
        log.warning("too many extra authorities, the rest is not trusted inside", count=len(sound))
    return tuple(sound[:MOST_EXTRAS])


def parse(content: bytes) -> Iterator[Authority]:
    """Find the certificates in a PEM file; what is no PEM is passed over."""
    for match in _BLOCK.finditer(content):
        try:
            der = base64.b64decode(b"".join(match[1].split()), validate=True)
        except binascii.Error:
            continue
        yield Authority(hashlib.sha256(der).hexdigest(), ssl.DER_cert_to_PEM_cert(der))


def _is_certificate(authority: Authority) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ssl.PEM_cert_to_DER_cert(authority.pem))
    except (ssl.SSLError, ValueError):
        log.warning("not a certificate, passed over", fingerprint=authority.fingerprint)
        return False
    return True


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError:
        return b""
