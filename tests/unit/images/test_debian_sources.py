"""The host's mirror is found in both forms of apt's sources."""

from pathlib import Path

import pytest

from atoll.server.images.debian_sources import DEFAULT_MIRROR, DEFAULT_SECURITY, Mirrors, host_mirrors

DEBIAN = 'ID=debian\nVERSION_CODENAME="bookworm"\n'
OURS = Mirrors(main="http://mirror.example/debian", security="http://mirror.example/debian-security")


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def find(apt: Path, release: str = DEBIAN) -> Mirrors:
    (apt / "os-release").write_text(release)
    return host_mirrors(apt, apt / "os-release")


def test_one_line_form(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb-src http://src.example/debian bookworm main\n"
        "deb [signed-by=/x arch=amd64] http://mirror.example/debian/ bookworm main contrib\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
        "deb http://other.example/tool stable main\n"
    )

    assert find(apt) == OURS


def test_deb822_form(apt: Path) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(
        "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\n\n"
        "Types: deb deb-src\n# a remark\nURIs: http://mirror.example/debian\n"
        "Suites: bookworm bookworm-updates\n\n"
        "Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\n"
    )

    assert find(apt) == OURS


def test_another_distribution_gets_debians_own(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://archive.example/ubuntu noble main\n")

    assert find(apt, "ID=ubuntu\nVERSION_CODENAME=noble\n") == Mirrors(
        main=DEFAULT_MIRROR, security=DEFAULT_SECURITY
    )


def test_no_sources_at_all(apt: Path) -> None:
    assert find(apt) == Mirrors(main=DEFAULT_MIRROR, security=DEFAULT_SECURITY)


def test_a_mirror_without_security_has_none(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")

    assert find(apt) == Mirrors(main=OURS.main, security=None)
    assert find(apt).sources("trixie") == [
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian trixie-updates main",
    ]
