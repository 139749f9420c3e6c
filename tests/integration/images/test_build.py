"""Real builds: whole or not at all, one at a time, and a machine that is as its recipe says."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from atoll.server.domain.errors import InternalError, ResourceExhaustedError, UnavailableError
from atoll.server.domain.template import Template
from atoll.server.images import builder
from atoll.server.images.authorities import host_extras, parse
from atoll.server.images.library import TemplateLibrary

# The smallest that mmdebstrap makes into a machine; a build takes some 8 s.
RECIPE = 'variant = "essential"\npackages = []\n'
BUILD_TIMEOUT_S = 180

# Builds "tiny", and says when mmdebstrap is at work and when it is done.
BUILDER = """
import asyncio, sys
from pathlib import Path
from atoll.server.images.library import TemplateLibrary
library = TemplateLibrary(Path(sys.argv[1]), recipes=Path(sys.argv[2]))
def tell(phase, fraction):
    if fraction > 0.12: print("installing", flush=True)
print("built", asyncio.run(library.ensure("tiny", tell)).built_at, flush=True)
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "recipes" / "tiny").mkdir(parents=True)
    (tmp_path / "recipes" / "tiny" / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipes"


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    return tmp_path / "builds"


def start_builder(builds: Path, recipes: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(builds), str(recipes)], stdout=subprocess.PIPE, text=True
    )


def await_line(process: subprocess.Popen[str], start: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(f"ended with {process.wait()} without {start!r}")


def at_work(builds: Path) -> list[psutil.Process]:
    """List the processes that build below a directory, by their command."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"{builds}/.building-" in word for word in process.info["cmdline"] or [])
    ]


def names(builds: Path) -> list[str]:
    return sorted(path.name for path in builds.iterdir() if path.name != ".locks")


@pytest.mark.heavy
@pytest.mark.timeout(2 * BUILD_TIMEOUT_S)
def test_two_builders_at_once_make_one_template(builds: Path, recipes: Path) -> None:
    first, second = start_builder(builds, recipes), start_builder(builds, recipes)
    with first, second:
        said = {await_line(first, "built"), await_line(second, "built")}

    # The second one found what the first one built.
    assert len(said) == 1
    assert len(names(builds)) == 1


@pytest.mark.heavy
@pytest.mark.timeout(2 * BUILD_TIMEOUT_S)
async def test_a_killed_builder_leaves_nothing_visible_and_the_next_one_succeeds(
    builds: Path, recipes: Path
) -> None:
    with start_builder(builds, recipes) as killed:
        await asyncio.to_thread(await_line, killed, "installing")
        workers = at_work(builds)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()

    # mmdebstrap, apt and dpkg die with the builder, and with them their mounts.
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
    assert at_work(builds) == []
    (left,) = names(builds)
    assert left.startswith(".building-")
    assert str(builds) not in Path("/proc/mounts").read_text()

    library = TemplateLibrary(builds, recipes=recipes)
    assert await library.list() == []
    template = await library.ensure("tiny")

    assert names(builds) == [template.id]


@pytest.mark.timeout(2 * BUILD_TIMEOUT_S)
async def test_a_cancelled_build_leaves_nothing(builds: Path, recipes: Path) -> None:
    installing = asyncio.Event()

    def tell(_phase: str, fraction: float) -> None:
        if fraction > 0.12:
            installing.set()

    building = asyncio.ensure_future(TemplateLibrary(builds, recipes=recipes).ensure("tiny", tell))
    await installing.wait()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building

    assert at_work(builds) == []
    assert names(builds) == []


async def test_a_build_that_takes_too_long_ends_and_leaves_nothing(builds: Path, recipes: Path) -> None:
    with pytest.raises(UnavailableError, match="template 'tiny' cannot be built now") as caught:
        await TemplateLibrary(builds, recipes=recipes, build_timeout_s=1.5).ensure("tiny")

    assert "killed after" in str(caught.value.details)
    assert names(builds) == []
    assert at_work(builds) == []


async def test_a_package_that_does_not_exist_is_named(builds: Path, recipes: Path) -> None:
    (recipes / "tiny" / "recipe.toml").write_text('packages = ["no-such-package"]')

    with pytest.raises(InternalError, match="template 'tiny' could not be built") as caught:
        await TemplateLibrary(builds, recipes=recipes).ensure("tiny")

    assert "no-such-package" in str(caught.value.details)
    assert names(builds) == []


async def test_a_mirror_that_does_not_answer_is_said_so(
    builds: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = builder.Mirror(main="http://127.0.0.1:9/debian", security="")
    monkeypatch.setattr(builder, "debian_mirror", lambda: nowhere)

    with pytest.raises(UnavailableError, match="cannot be built now") as caught:
        await TemplateLibrary(builds, recipes=recipes).ensure("tiny")

    assert "apt-get update" in str(caught.value.resolution)
    assert names(builds) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that a build does not fit on."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


async def test_a_full_disk_is_said_so_and_is_free_again(small_disk: Path, recipes: Path) -> None:
    with pytest.raises(ResourceExhaustedError, match="no room on the disk"):
        await TemplateLibrary(small_disk, recipes=recipes).ensure("tiny")

    assert names(small_disk) == []


async def test_a_script_that_fails_fails_the_build(builds: Path, recipes: Path) -> None:
    (recipes / "tiny" / "setup").write_text("echo to no avail >&2\nfalse\ntouch /never\n")

    with pytest.raises(InternalError) as caught:
        await TemplateLibrary(builds, recipes=recipes).ensure("tiny")

    assert "to no avail" in str(caught.value.details)
    assert names(builds) == []


@pytest.fixture(scope="module")
def rootfs(library: TemplateLibrary, minimal_template: Template) -> Path:
    return asyncio.run(library.rootfs(minimal_template.id))


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("etc/machine-id", ""),
        ("etc/hostname", "sandbox\n"),
        ("etc/resolv.conf", "nameserver 169.254.1.1\n"),
        ("etc/timezone", "Etc/UTC\n"),
        ("etc/default/locale", "LANG=C.UTF-8\n"),
    ],
)
def test_a_machine_has_no_identity_yet(rootfs: Path, path: str, content: str) -> None:
    assert (rootfs / path).read_text() == content
    assert (rootfs / path).stat().st_mode & 0o777 == 0o644


def test_nothing_names_the_host(rootfs: Path) -> None:
    name = os.uname().nodename.encode()

    assert name != b"sandbox"
    assert [
        path for path in (rootfs / "etc").rglob("host*") if path.is_file() and name in path.read_bytes()
    ] == []


def test_the_user_is_as_clients_expect(rootfs: Path) -> None:
    lines = (rootfs / "etc/passwd").read_text().splitlines()
    home = (rootfs / "home/user").stat()

    assert "user:x:1000:1000::/home/user:/bin/bash" in lines
    assert (home.st_uid, home.st_gid, stat.S_IMODE(home.st_mode)) == (1000, 1000, 0o755)


def test_tmp_is_not_empty_so_that_it_stays_on_the_disk(rootfs: Path) -> None:
    assert any((rootfs / "tmp").iterdir())
    assert stat.S_IMODE((rootfs / "tmp").stat().st_mode) == 0o1777


def test_licences_stay_and_manuals_do_not(rootfs: Path) -> None:
    documents = [path for path in (rootfs / "usr/share/doc").rglob("*") if path.is_file()]

    assert len(documents) > 50
    assert {path.name for path in documents} == {"copyright"}
    assert list((rootfs / "usr/share/man").rglob("*.gz")) == []


def test_apt_knows_where_packages_come_from(rootfs: Path) -> None:
    text = (rootfs / "etc/apt/sources.list.d/debian.sources").read_text()

    assert "Suites: trixie\n" in text
    assert "@" not in text
    keyrings = {line.split()[1] for line in text.splitlines() if line.startswith("Signed-By:")}
    assert keyrings
    assert all((rootfs / keyring.lstrip("/")).exists() for keyring in keyrings)


def test_pip_is_not_kept_from_installing(rootfs: Path) -> None:
    assert list((rootfs / "usr/lib").glob("python3*/EXTERNALLY-MANAGED")) == []


def test_others_on_this_host_cannot_reach_its_programs(rootfs: Path) -> None:
    assert stat.S_IMODE(rootfs.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(rootfs.stat().st_mode) == 0o755


def test_all_that_the_host_trusts_is_trusted_inside(rootfs: Path) -> None:
    inside = {one.fingerprint for one in parse((rootfs / "etc/ssl/certs/ca-certificates.crt").read_bytes())}

    assert len(inside) > 100
    assert {one.fingerprint for one in host_extras()} <= inside


@pytest.mark.heavy
@pytest.mark.timeout(2 * BUILD_TIMEOUT_S)
async def test_an_authority_of_the_host_is_trusted_inside_unless_told_otherwise(
    builds: Path, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    company = tmp_path / "company.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", "/CN=Company", "-keyout", tmp_path / "key", "-out", company],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    (one,) = parse(company.read_bytes())
    (recipes / "tiny" / "recipe.toml").write_text('variant = "apt"\npackages = ["ca-certificates"]')
    before = await TemplateLibrary(builds, recipes=recipes, guest_ca=False).ensure("tiny")
    monkeypatch.setenv("SSL_CERT_FILE", str(company))
    trusting = await TemplateLibrary(builds, recipes=recipes).ensure("tiny")

    def bundle(template: Template) -> set[str]:
        path = builds / template.id / "rootfs/etc/ssl/certs/ca-certificates.crt"
        return {found.fingerprint for found in parse(path.read_bytes())}

    environment = (builds / trusting.id / "rootfs/etc/environment").read_text()
    assert one.fingerprint in bundle(trusting)
    assert one.fingerprint not in bundle(before)
    assert "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n" in environment
    assert "SSL_CERT_FILE" not in dict(before.env)
