"""What the host trusts beyond the usual authorities is found by fingerprint, and nothing else."""

import ssl
import subprocess
from pathlib import Path

import pytest

from atoll.server.images import authorities
from atoll.server.images.authorities import extras, host_extras, parse


def certificate(directory: Path, name: str) -> Path:
    """Make a certificate of its own."""
    path = directory / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-keyout", directory / f"{name}.key", "-out", path],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return path


@pytest.fixture
def usual(tmp_path: Path) -> Path:
    return certificate(tmp_path, "usual")


@pytest.fixture
def company(tmp_path: Path) -> Path:
    return certificate(tmp_path, "company")


def test_extras_are_what_is_not_usual(tmp_path: Path, usual: Path, company: Path) -> None:
    bundle = tmp_path / "bundle"
    # Other line lengths and remarks make no other certificate.
    reflowed = "".join(usual.read_text().split("\n")[1:-2])
    bundle.write_text(
        f"# a remark\n-----BEGIN CERTIFICATE-----\n{reflowed}\n-----END CERTIFICATE-----\n"
        f"{company.read_text()}"
    )

    found = extras([bundle], [usual])

    assert [ssl.PEM_cert_to_DER_cert(one.pem) for one in found] == [
        ssl.PEM_cert_to_DER_cert(company.read_text())
    ]


def test_the_same_one_twice_is_one(company: Path) -> None:
    assert len(extras([company, company], [])) == 1


def test_the_order_of_files_does_not_matter(usual: Path, company: Path) -> None:
    assert extras([usual, company], []) == extras([company, usual], [])


def test_a_host_without_a_bundle_has_none(tmp_path: Path) -> None:
    assert extras([tmp_path / "none", tmp_path], []) == ()


@pytest.mark.parametrize("inside", ["!!! not base64 !!!", "AAAA", "", "QUJD" * 1000])
def test_rubbish_between_the_marks_is_passed_over(tmp_path: Path, company: Path, inside: str) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_text(
        f"-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n{company.read_text()}"
    )

    assert len(extras([bundle], [])) == 1


def test_keys_are_never_taken_along(tmp_path: Path, company: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_text((tmp_path / "company.key").read_text() + company.read_text())

    (one,) = extras([bundle], [])

    assert "PRIVATE" not in one.pem


def test_more_than_the_most_are_not_taken(
    usual: Path, company: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorities, "MOST_EXTRAS", 1)

    assert len(extras([usual, company], [])) == 1


def test_a_bundle_named_by_the_environment_counts(company: Path) -> None:
    (one,) = parse(company.read_bytes())

    assert one in host_extras({"SSL_CERT_FILE": str(company)})
    assert one not in host_extras({})
