"""The host's Debian mirror is found in both forms of apt's sources; another archive is not taken for one."""

from pathlib import Path

import pytest

from atoll.server.host.apt import (
    DEBIAN,
    DEBIAN_KEYRING,
    DEBIAN_SECURITY,
    Mirror,
    debian_mirror,
    proxy_environment,
    without_credentials,
)

OURS = Mirror(
    main="http://mirror.example/debian",
    security="http://mirror.example/debian-security",
    keyring=DEBIAN_KEYRING,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    (root / "etc/apt" / name).write_text(text)


def test_one_line_form(root: Path) -> None:
    put(
        root, "sources.list",
        "# deb http://old.example/debian bookworm main\n"
        "deb-src http://src.example/debian bookworm main\n"
        f"deb [signed-by={DEBIAN_KEYRING} arch=amd64] http://mirror.example/debian/ bookworm main  # x\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
        "rubbish\n",
    )  # fmt: skip

    assert debian_mirror(root) == OURS


def test_deb822_form(root: Path) -> None:
    put(
        root, "sources.list.d/debian.sources",
        "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n\n"
        "Types: deb deb-src\n# a remark\nURIs:\n http://mirror.example/debian\n"
        f"Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: {DEBIAN_KEYRING}\n\n"
        "Types: deb\nURIs: http://mirror.example/debian-security/\n"
        "Suites: bookworm-security\nComponents: main\n",
    )  # fmt: skip

    assert debian_mirror(root) == OURS


def test_a_key_in_the_stanza_itself_is_no_file(root: Path) -> None:
    put(
        root, "sources.list.d/debian.sources",
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQIN\n -----END PGP PUBLIC KEY BLOCK-----\n",
    )  # fmt: skip

    assert debian_mirror(root).keyring == DEBIAN_KEYRING


def test_another_distribution_gets_debians_own(root: Path) -> None:
    put(
        root, "sources.list.d/ubuntu.sources",
        "Types: deb\nURIs: http://archive.ubuntu.com/ubuntu\nSuites: noble noble-updates\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n",
    )  # fmt: skip

    assert debian_mirror(root) == Mirror(main=DEBIAN, security=DEBIAN_SECURITY, keyring=DEBIAN_KEYRING)


@pytest.mark.parametrize(
    "line",
    [
        "deb https://download.docker.example/linux/debian bookworm stable",
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://vendor.example/stable/debian bookworm main",
        "deb [signed-by=/x.gpg] https://apt.vendor.example bookworm main",
        "deb https://deb.vendor.example/node_20.x nodistro main",
        "deb cdrom:[Debian]/ bookworm main",
        "deb file:/srv/debian bookworm main",
        "deb http://:80/debian bookworm main",
    ],
)
def test_other_archives_are_not_debians(root: Path, line: str) -> None:
    put(root, "sources.list", line + "\n")

    assert debian_mirror(root) == Mirror()


def test_a_company_that_signs_its_copy_itself_is_believed(root: Path) -> None:
    option = "[signed-by=/etc/apt/keyrings/company.gpg]"
    put(
        root, "sources.list",
        f"deb {option} https://artifacts.example/debian bookworm main\n"
        f"deb {option} https://artifacts.example/debian bookworm-updates main\n",
    )  # fmt: skip

    assert debian_mirror(root) == Mirror(
        main="https://artifacts.example/debian", security="", keyring="/etc/apt/keyrings/company.gpg"
    )


def test_the_first_mirror_of_a_list_is_taken(root: Path) -> None:
    (root / "etc/apt/mirrors").mkdir()
    put(
        root,
        "mirrors/debian.list",
        "# ours\nhttps://mirror.example/debian priority:1\nhttps://b.example/debian\n",
    )
    put(root, "sources.list", "deb mirror+file:/etc/apt/mirrors/debian.list bookworm main\n")

    assert debian_mirror(root).main == "https://mirror.example/debian"


def test_no_sources_at_all(tmp_path: Path) -> None:
    assert debian_mirror(tmp_path) == Mirror()


def test_bytes_that_are_no_text_harm_nothing(root: Path) -> None:
    (root / "etc/apt/sources.list").write_bytes(b"\xff\xfe deb http://x\n" * 100)
    (root / "etc/apt/sources.list.d/a.sources").write_bytes(b": \n \xff\n:::\n")

    assert debian_mirror(root) == Mirror()


def test_credentials_are_not_told_to_guests() -> None:
    assert (
        without_credentials("https://me:secret@mirror.example:8443/debian")
        == "https://mirror.example:8443/debian"
    )
    assert without_credentials("http://mirror.example/debian") == "http://mirror.example/debian"


async def test_proxies_come_from_the_environment() -> None:
    environ = {"http_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2", "no_proxy": "x", "OTHER": "y"}

    found = await proxy_environment(environ)

    assert found == {"http_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2", "no_proxy": "x"}
