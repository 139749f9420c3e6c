"""
A small certificate authority: makes a key and certificate that sign for one domain, and certificates of it.

Only makes and reads PEM text; where it is kept and when it is renewed is said in ``certificates``.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Every program that trusts it has to be told again when it ends, so it lasts long.
AUTHORITY_LIFE = timedelta(days=3650)
# Clients refuse more than 398 days (Apple's) or 825 (older ones); renewing is our work, so short is free.
CERTIFICATE_LIFE = timedelta(days=90)
# Clocks of clients may be behind ours.
_BEFORE = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """
    A certificate with its key.

    Attributes:
        certificate: in PEM form.
        key: in PEM form, PKCS #8, not encrypted.
    """

    certificate: bytes
    key: bytes


def make_authority(domain: str, now: datetime) -> Pair:
    """
    Make an authority that can sign names of one domain and nothing else.

    Whoever stole its key could pretend to be a sandbox of this domain, not anybody's bank.
    """
    only = x509.NameConstraints(permitted_subtrees=[x509.DNSName(domain)], excluded_subtrees=None)
    return _authority(f"Atoll, for {domain[:48]}", now, only)


def make_egress_authority(home_id: str, now: datetime) -> Pair:
    """
    Make an authority for names of sandboxes' rules: any name, since nobody knows them before.

    Only sandboxes that have rules are told to trust it.
    """
    return _authority(f"Atoll, egress of home {home_id}", now, None)


def _authority(name_text: str, now: datetime, only: x509.NameConstraints | None) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name_text)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if only is not None:
        builder = builder.add_extension(only, critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_certificate(authority: Pair, domain: str, now: datetime) -> Pair:
    """Make a certificate for the domain and every name directly below it, signed by the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("not an authority that was made here")  # noqa: TRY004  its content is wrong
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain[:64])]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(min(now + CERTIFICATE_LIFE, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(domain), x509.DNSName(f"*.{domain}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    return _pair(certificate, key)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
