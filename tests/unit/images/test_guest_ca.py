"""Only what the host trusts beyond the usual authorities goes inside."""

import base64
from pathlib import Path

from atoll.server.images.guest_ca import certificates, extra_certificates


def pem(body: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(body) + b"-----END CERTIFICATE-----\n"


def test_extras_are_what_is_not_usual(tmp_path: Path) -> None:
    usual = tmp_path / "usual" / "mozilla"
    usual.mkdir(parents=True)
    (usual / "a.crt").write_bytes(pem(b"a" * 100))
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(b"# a remark\n" + pem(b"a" * 100) + pem(b"company" * 30))

    extras = extra_certificates(bundle=bundle, usual=tmp_path / "usual")

    assert list(extras.values()) == [pem(b"company" * 30)]


def test_a_host_without_a_bundle_has_no_extras(tmp_path: Path) -> None:
    assert extra_certificates(bundle=tmp_path / "none", usual=tmp_path) == {}


def test_rubbish_between_the_marks_is_passed_over() -> None:
    rubbish = b"-----BEGIN CERTIFICATE-----\n!!! not base64 !!!\n-----END CERTIFICATE-----\n"

    assert list(certificates(rubbish + pem(b"good")).values()) == [pem(b"good")]
