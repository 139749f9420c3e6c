"""The authority and certificates of a home: made once, renewed in time, readable by whom they are for."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from atoll.server.domain.errors import InternalError, InvalidArgumentError
from atoll.server.domain.hostnames import parse_domain
from atoll.server.edge.authority import CERTIFICATE_LIFE, Pair, make_authority, make_certificate
from atoll.server.edge.certificates import LocalAuthority, check_own, trust_files

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def verify(authority: bytes, leaf: bytes, name: str, when: datetime) -> None:
    """Judge as a client does."""
    store = Store(x509.load_pem_x509_certificates(authority))
    verifier = PolicyBuilder().store(store).time(when).build_server_verifier(x509.DNSName(name))
    verifier.verify(x509.load_pem_x509_certificate(leaf), [])


def test_a_certificate_is_for_the_domain_and_every_name_directly_below() -> None:
    authority = make_authority("sbx.test", NOW)
    made = make_certificate(authority, "sbx.test", NOW)

    for name in ("sbx.test", "api.sbx.test", "49983-i0123456789abcdefghij.sbx.test"):
        verify(authority.certificate, made.certificate, name, NOW)
    for name in ("a.b.sbx.test", "sbx.example", "evilsbx.test"):
        with pytest.raises(VerificationError):
            verify(authority.certificate, made.certificate, name, NOW)
    with pytest.raises(VerificationError):
        verify(authority.certificate, made.certificate, "sbx.test", NOW + CERTIFICATE_LIFE + timedelta(1))


def test_an_authority_signs_for_its_domain_only() -> None:
    authority = make_authority("sbx.test", NOW)
    stolen = make_certificate(authority, "bank.example", NOW)

    (constraint,) = [
        extension
        for extension in x509.load_pem_x509_certificate(authority.certificate).extensions
        if extension.oid == x509.NameConstraints.oid
    ]
    assert constraint.critical
    with pytest.raises(VerificationError):
        verify(authority.certificate, stolen.certificate, "bank.example", NOW)


def test_what_holds_is_kept_and_what_ends_soon_is_renewed_by_the_same_authority(tmp_path: Path) -> None:
    local = LocalAuthority(tmp_path, "sbx.test")
    local.ensure(NOW)
    authority, first = (tmp_path / "sbx.test" / "ca.pem").read_bytes(), local.server_file.read_bytes()

    local.ensure(NOW + timedelta(days=59))
    assert local.server_file.read_bytes() == first

    later = NOW + timedelta(days=61)
    local.ensure(later)
    assert local.server_file.read_bytes() != first
    assert (tmp_path / "sbx.test" / "ca.pem").read_bytes() == authority
    verify(authority, local.server_file.read_bytes(), "api.sbx.test", NOW + timedelta(days=120))


def test_an_authority_that_ends_within_a_year_is_made_anew(tmp_path: Path) -> None:
    local = LocalAuthority(tmp_path, "sbx.test")
    local.ensure(NOW)
    before = (tmp_path / "sbx.test" / "ca.pem").read_bytes()

    later = NOW + timedelta(days=9 * 365 + 10)
    local.ensure(later)

    after = (tmp_path / "sbx.test" / "ca.pem").read_bytes()
    assert after != before
    verify(after, local.server_file.read_bytes(), "api.sbx.test", later)


def test_keys_are_for_root_and_what_programs_need_is_for_everybody(tmp_path: Path) -> None:
    local = LocalAuthority(tmp_path / "tls", "sbx.test")
    local.ensure(NOW)
    local.publish(tmp_path / "public")

    for file in (tmp_path / "tls" / "sbx.test").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    files = trust_files(tmp_path / "public")
    assert {stat.S_IMODE(file.stat().st_mode) for file in (files.authority, files.bundle)} == {0o644}
    assert b"PRIVATE" not in files.bundle.read_bytes() + files.authority.read_bytes()
    context = ssl.create_default_context(cafile=str(files.bundle))
    subjects = [dict(pair[0] for pair in one["subject"]) for one in context.get_ca_certs()]
    assert {"commonName": "Atoll, for sbx.test"} in subjects
    assert len(subjects) > 50


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"])
def test_a_damaged_certificate_is_made_again_and_a_damaged_authority_is_told(
    tmp_path: Path, content: bytes
) -> None:
    local = LocalAuthority(tmp_path, "sbx.test")
    local.ensure(NOW)
    local.server_file.write_bytes(content)
    local.ensure(NOW)
    verify((tmp_path / "sbx.test" / "ca.pem").read_bytes(), local.server_file.read_bytes(), "sbx.test", NOW)

    (tmp_path / "sbx.test" / "ca.pem").write_bytes(content)
    with pytest.raises(InternalError, match="damaged"):
        local.ensure(NOW)


def test_an_authority_with_another_ones_key_is_told(tmp_path: Path) -> None:
    local = LocalAuthority(tmp_path, "sbx.test")
    local.ensure(NOW)
    (tmp_path / "sbx.test" / "ca.key").write_bytes(make_authority("sbx.test", NOW).key)

    with pytest.raises(InternalError, match="damaged"):
        local.ensure(NOW)


def own(directory: Path, pair: Pair) -> tuple[Path, Path]:
    (directory / "cert.pem").write_bytes(pair.certificate)
    (directory / "key.pem").write_bytes(pair.key)
    return directory / "cert.pem", directory / "key.pem"


def test_a_certificate_of_the_operators_own_is_judged_before_it_is_served(tmp_path: Path) -> None:
    pair = make_certificate(make_authority("sbx.test", NOW), "sbx.test", NOW)
    cert, key = own(tmp_path, pair)

    assert check_own(cert, key, "sbx.test", NOW) == ()
    assert "ends on 2027-02-21" in check_own(cert, key, "sbx.test", NOW + timedelta(days=80))[0]
    with pytest.raises(InvalidArgumentError, match=r"not for \*\.other\.test"):
        check_own(cert, key, "other.test", NOW)
    with pytest.raises(InvalidArgumentError, match="has ended"):
        check_own(cert, key, "sbx.test", NOW + timedelta(days=91))
    with pytest.raises(InvalidArgumentError, match="cannot be used"):
        check_own(cert, tmp_path / "none.pem", "sbx.test", NOW)
    key.write_bytes(make_authority("sbx.test", NOW).key)
    load_pem_private_key(key.read_bytes(), password=None)
    with pytest.raises(InvalidArgumentError, match="cannot be used"):
        check_own(cert, key, "sbx.test", NOW)


def test_domains_are_read_in_lower_case() -> None:
    assert parse_domain("Sbx.Test.") == "sbx.test"


@pytest.mark.parametrize(
    "text",
    ["", "test", "*.sbx.test", "sbx.test:8443", "a..b", "-a.test", "127.0.0.1", "a_b.test", "x" * 64 + ".a"],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no domain"):
        parse_domain(text)
