"""
The certificates of a home: where they are, when they are renewed, and whether the operator's own will do.

The edge reads the files again when they are replaced, so renewing needs nobody to be told.
Programs that are to trust the home find its authority in a public directory: the home is for root only.
"""

import os
import shutil
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import certifi
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from atoll.server.domain.errors import InternalError, InvalidArgumentError
from atoll.server.edge.authority import Pair, make_authority, make_certificate, make_egress_authority

log = structlog.get_logger(__name__)

# A server that is off for a month must find a certificate that still holds.
_CERTIFICATE_MARGIN = timedelta(days=30)
_AUTHORITY_MARGIN = timedelta(days=365)
# What this machine trusts; Debian's, and else the usual ones. Not SSL_CERT_FILE: that may be our own bundle.
_SYSTEM_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True, kw_only=True)
class TrustFiles:
    """
    What programs are pointed at.

    Attributes:
        authority: our certificate alone.
        bundle: what this machine trusts, and our certificate behind it.
    """

    authority: Path
    bundle: Path


def ensure_egress_authority(file: Path, home_id: str, now: datetime) -> str:
    """
    Have an authority for names of sandboxes' rules that holds for a while; return its certificate, as PEM.

    Args:
        file: gets certificate and key; for root only.
        home_id: whose.
        now: the time.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
    except (FileNotFoundError, ValueError):
        found = None
    if found is None or found.not_valid_after_utc < now + _AUTHORITY_MARGIN:
        made = make_egress_authority(home_id, now)
        _write(file, made.certificate + made.key, mode=0o600)
        log.info("certificate authority made, for rules of sandboxes", file=str(file))
        found = x509.load_pem_x509_certificate(made.certificate)
    return found.public_bytes(serialization.Encoding.PEM).decode()


def trust_files(public: Path) -> TrustFiles:
    """Name the files in a home's public directory."""
    return TrustFiles(authority=public / "ca.pem", bundle=public / "ca-bundle.pem")


class LocalAuthority:
    """The authority of one domain, with its certificate, in files."""

    def __init__(self, directory: Path, domain: str) -> None:
        """
        Look at nothing yet.

        Args:
            directory: for root only; the domain gets one of its own in it.
            domain: without a star.
        """
        self._domain = domain
        self._directory = directory / domain

    @property
    def server_file(self) -> Path:
        """The certificate, what signed it, and its key: one file, so that it is replaced in one step."""
        return self._directory / "server.pem"

    def ensure(self, now: datetime) -> None:
        """Have an authority and a certificate that hold for a while; blocks, on the disk and little else."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = self._read()
        if authority is None or not _holds(authority.certificate, now + _AUTHORITY_MARGIN):
            authority = make_authority(self._domain, now)
            # The key first: a certificate without its key is made anew, and nobody has trusted it yet.
            _write(self._directory / "ca.key", authority.key, mode=0o600)
            _write(self._directory / "ca.pem", authority.certificate, mode=0o600)
            log.info("certificate authority made", domain=self._domain)
        if not self._certificate_holds(authority, now + _CERTIFICATE_MARGIN):
            made = make_certificate(authority, self._domain, now)
            _write(self.server_file, made.certificate + authority.certificate + made.key, mode=0o600)
            log.info("certificate made", domain=self._domain)

    def publish(self, public: Path) -> None:
        """Write what programs are pointed at; again is the same, and follows what this machine trusts."""
        public.mkdir(mode=0o755, parents=True, exist_ok=True)
        ours = (self._directory / "ca.pem").read_bytes()
        roots = _SYSTEM_ROOTS if _SYSTEM_ROOTS.exists() else Path(certifi.where())
        files = trust_files(public)
        _write(files.authority, ours, mode=0o644)
        _write(files.bundle, roots.read_bytes().rstrip(b"\n") + b"\n" + ours, mode=0o644)

    def _read(self) -> Pair | None:
        certificate, key = self._directory / "ca.pem", self._directory / "ca.key"
        try:
            found = Pair(certificate=certificate.read_bytes(), key=key.read_bytes())
        except FileNotFoundError:
            return None
        try:
            public = x509.load_pem_x509_certificate(found.certificate).public_key()
            if load_pem_private_key(found.key, password=None).public_key() != public:
                raise ValueError("the key is another one's")
        except (ValueError, TypeError) as error:
            # Not made again by itself: programs trust it, and somebody has to tell them of the next.
            raise InternalError(
                f"The certificate authority in {self._directory} is damaged",
                details=str(error),
                resolution="Restore it, or remove the directory: the next start makes another one, and"
                " clients need new exports.",
            ) from error
        return found

    def _certificate_holds(self, authority: Pair, until: datetime) -> bool:
        try:
            content = self.server_file.read_bytes()
            chain = x509.load_pem_x509_certificates(content)
            issuer = x509.load_pem_x509_certificate(authority.certificate)
            chain[0].verify_directly_issued_by(issuer)
            load_pem_private_key(content[content.index(b"-----BEGIN PRIVATE KEY") :], password=None)
        except FileNotFoundError:
            return False
        except Exception as error:  # damaged in whichever way: it is ours to make again
            log.warning("certificate not usable, making another", error=repr(error))
            return False
        return _holds(content, until)


def unpublish(public: Path) -> None:
    """Remove what ``publish`` wrote; nothing if there is nothing."""
    shutil.rmtree(public, ignore_errors=True)


def check_own(certificate: Path, key: Path, domain: str, now: datetime) -> tuple[str, ...]:
    """
    Look whether the operator's own certificate will do for a domain and the names below it.

    Returns:
        What is not wrong, but worth a warning.

    Raises:
        InvalidArgumentError: it cannot be read, does not fit its key, or is for other names, or has ended.
    """
    try:
        leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
        # OpenSSL's own judgement of whether the two belong together; the edge's is the same.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError, IndexError) as error:
        raise InvalidArgumentError(
            f"The certificate {certificate} with the key {key} cannot be used",
            details=str(error),
            resolution="Both in PEM form, the key not encrypted, what signed the certificate behind it.",
        ) from error
    missing = _uncovered(leaf, (domain, f"*.{domain}"))
    if f"*.{domain}" in missing:
        raise InvalidArgumentError(
            f"The certificate {certificate} is not for *.{domain}",
            details=f"It is for {', '.join(_names(leaf)) or 'no name'}.",
            resolution="Sandboxes have names directly below the domain: it takes a wildcard certificate.",
        )
    if leaf.not_valid_after_utc <= now:
        raise InvalidArgumentError(
            f"The certificate {certificate} has ended", details=f"on {leaf.not_valid_after_utc:%Y-%m-%d}"
        )
    if leaf.not_valid_after_utc <= now + _CERTIFICATE_MARGIN / 2:
        return (f"the certificate {certificate} ends on {leaf.not_valid_after_utc:%Y-%m-%d}",)
    return ()


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def _uncovered(certificate: x509.Certificate, wanted: Sequence[str]) -> list[str]:
    names = _names(certificate)
    return [name for name in wanted if name not in names]


def _holds(certificate: bytes, until: datetime) -> bool:
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc > until


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """Replace a file in one step, readable as ``mode`` says from its first moment."""
    beside = file.with_name(f".{file.name}.new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as stream:
        # The mask of whoever started us must not hide what is for everybody.
        os.fchmod(fd, mode)
        stream.write(content)
        stream.flush()
        os.fsync(fd)
    beside.replace(file)
