"""
What the host trusts beyond the usual certificate authorities, to be trusted inside too.

Behind a company's proxy, pip, npm and curl work only with the company's own authority.
Certificates are compared by the hash of their DER bytes; nothing is parsed.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)
# Larger bundles are no bundles; Debian's has 220 KB.
MOST_BUNDLE_BYTES = 16 * 1024 * 1024

HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
# Debian's usual ones, as its package lists them on the host.
USUAL_AUTHORITIES = Path("/usr/share/ca-certificates")

# Inside: programs that bring a list of their own are pointed at the system's.
BUNDLE_INSIDE = "/etc/ssl/certs/ca-certificates.crt"
ENV_INSIDE = (
    # Node, npm.
    ("NODE_EXTRA_CA_CERTS", BUNDLE_INSIDE),
    # pip, in virtual environments too.
    ("PIP_CERT", BUNDLE_INSIDE),
    # Python's requests, which carries certifi's list.
    ("REQUESTS_CA_BUNDLE", BUNDLE_INSIDE),
    # httpx, Go, Ruby, OpenSSL.
    ("SSL_CERT_FILE", BUNDLE_INSIDE),
)


def certificates(bundle: bytes) -> dict[str, bytes]:
    """Split a PEM bundle: sha256 of each certificate's DER bytes → the certificate as PEM."""
    found: dict[str, bytes] = {}
    for block in _PEM.finditer(bundle):
        try:
            der = base64.b64decode(b"".join(block[1].split()), validate=True)
        except binascii.Error:
            # Not ours to judge: the host's own tools would not read it either.
            continue
        found[hashlib.sha256(der).hexdigest()] = block[0] + b"\n"
    return found


def extra_certificates(*, bundle: Path = HOST_BUNDLE, usual: Path = USUAL_AUTHORITIES) -> Mapping[str, bytes]:
    """
    Find what the host trusts beyond its distribution's own list.

    Returns:
        sha256 of the DER bytes → PEM; empty where the host trusts nothing more, or has no bundle.
    """
    if not bundle.is_file() or bundle.stat().st_size > MOST_BUNDLE_BYTES:
        return {}
    trusted = certificates(bundle.read_bytes())
    for path in usual.rglob("*.crt"):
        for fingerprint in certificates(path.read_bytes()):
            trusted.pop(fingerprint, None)
    return dict(sorted(trusted.items()))
