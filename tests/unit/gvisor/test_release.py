"""Where runsc comes from, in which order, and that half a one is never there."""

import asyncio
import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from atoll.server.domain.errors import UnavailableError
from atoll.server.runtimes.gvisor import release, release_sources
from atoll.server.runtimes.gvisor.release import RELEASE, VERSION, RunscRelease
from atoll.server.runtimes.gvisor.steps import Progress, ReleaseError, Step, ignore

PROBE = Path("/probe")


class World:
    """Stands in for the check and the two sources."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.good = {"runsc by hand", "released", "compiled"}
        self.checked: list[Path] = []
        self.made: list[str] = []
        self.broken: set[str] = set()
        monkeypatch.setattr(release, "check", self.check)
        monkeypatch.setattr(release, "download_release", self.download)
        monkeypatch.setattr(release, "compile_runsc", self.compile)

    async def check(self, program: Path, probe: Path) -> None:
        assert probe == PROBE
        self.checked.append(program)
        if program.read_text() not in self.good:
            raise ReleaseError("does not run a sandbox")

    async def download(self, version: str, directory: Path, progress: Progress) -> None:
        await self._make("released", directory)

    async def compile(self, go_version: str, version: str, directory: Path, progress: Progress) -> None:
        progress(Step(text="compiling"))
        await self._make("compiled", directory)

    async def _make(self, name: str, directory: Path) -> None:
        self.made.append(name)
        await asyncio.sleep(0)
        (directory / "half").write_text("")
        if name in self.broken:
            raise ReleaseError(f"no {name}")
        (directory / "runsc").write_text(name)
        (directory / "runsc").chmod(0o755)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    program = tmp_path / "bin" / "runsc"
    program.parent.mkdir()
    program.write_text("runsc by hand")
    program.chmod(0o755)
    return program


def releases(tmp_path: Path, *, path: str = "/nowhere") -> RunscRelease:
    return RunscRelease(tmp_path / "runsc", probe=PROBE, path=path)


async def test_what_is_found_without_installing_was_tried_now(
    world: World, by_hand: Path, tmp_path: Path
) -> None:
    assert await releases(tmp_path).find() == (None, [])
    found = releases(tmp_path, path=str(by_hand.parent))
    assert await found.find() == (by_hand, [])
    assert await found.find() == (by_hand, [])
    world.good.clear()

    program, failures = await found.find()

    assert program is None
    assert failures == [f"{by_hand}: does not run a sandbox"]
    assert world.checked == [by_hand] * 3
    assert world.made == []


async def test_a_good_one_on_path_will_do(world: World, by_hand: Path, tmp_path: Path) -> None:
    found = await releases(tmp_path, path=str(by_hand.parent)).ensure()

    assert found == by_hand
    assert world.made == []


async def test_a_bad_one_on_path_will_not_do(world: World, by_hand: Path, tmp_path: Path) -> None:
    by_hand.write_text("runsc of 2024")

    found = await releases(tmp_path, path=str(by_hand.parent)).ensure()

    assert found == tmp_path / "runsc" / f"{RELEASE}.0" / "runsc"


async def test_the_release_comes_before_compiling(world: World, tmp_path: Path) -> None:
    assert (await releases(tmp_path).ensure()).read_text() == "released"
    assert world.made == ["released"]


async def test_without_the_release_it_is_compiled(world: World, tmp_path: Path) -> None:
    world.broken.add("released")
    steps: list[str] = []

    found = await releases(tmp_path).ensure(lambda step: steps.append(step.text))

    assert found == tmp_path / "runsc" / VERSION / "runsc"
    assert "compiling" in steps


async def test_a_release_that_fails_the_check_is_not_installed(world: World, tmp_path: Path) -> None:
    world.good.remove("released")

    assert (await releases(tmp_path).ensure()).read_text() == "compiled"
    assert [path.name for path in (tmp_path / "runsc").glob("[!.]*")] == [VERSION]


async def test_nothing_half_is_left_when_all_fails(world: World, tmp_path: Path) -> None:
    world.broken |= {"released", "compiled"}

    with pytest.raises(UnavailableError) as caught:
        await releases(tmp_path).ensure()

    assert "no released" in str(caught.value.details)
    assert "no compiled" in str(caught.value.details)
    assert [path.name for path in (tmp_path / "runsc").iterdir()] == [".lock"]


async def test_what_is_installed_is_checked_once(world: World, tmp_path: Path) -> None:
    first = await releases(tmp_path).ensure()
    checks = len(world.checked)

    assert await releases(tmp_path).ensure() == first
    assert len(world.checked) == checks


async def test_a_program_that_changed_is_checked_again(world: World, by_hand: Path, tmp_path: Path) -> None:
    await releases(tmp_path, path=str(by_hand.parent)).ensure()
    by_hand.write_text("another")

    await releases(tmp_path, path=str(by_hand.parent)).ensure()

    assert world.made == ["released"]


async def test_versions_live_side_by_side(world: World, tmp_path: Path) -> None:
    old = tmp_path / "runsc" / "20250101.0" / "runsc"
    old.parent.mkdir(parents=True)
    old.write_text("old")

    await releases(tmp_path).ensure()

    assert set(releases(tmp_path).installed()) == {"20250101.0", f"{RELEASE}.0"}


async def test_two_at_once_install_once(world: World, tmp_path: Path) -> None:
    found = await asyncio.gather(releases(tmp_path).ensure(), releases(tmp_path).ensure())

    assert found[0] == found[1]
    assert world.made == ["released"]


Bucket = Callable[[dict[str, bytes]], None]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Gives gVisor's bucket some content."""
    plain = httpx.AsyncClient

    def fill(content: dict[str, bytes]) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            name = request.url.path.rpartition("/")[2]
            return httpx.Response(200, content=content[name]) if name in content else httpx.Response(404)

        monkeypatch.setattr(
            release_sources.httpx,
            "AsyncClient",
            lambda **options: plain(transport=httpx.MockTransport(answer), **options),
        )

    return fill


def archive(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:bz2") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def test_a_release_is_unpacked_with_its_helpers_only(bucket: Bucket, tmp_path: Path) -> None:
    packed = archive(runsc=b"program", **{"gvisor-bin__gvisor_sentry": b"helper", "containerd-shim": b"no"})
    digest = hashlib.sha512(packed).hexdigest()
    bucket({"gvisor.tar.bz2": packed, "gvisor.tar.bz2.sha512": f"{digest}  gvisor.tar.bz2\n".encode()})
    steps: list[Step] = []

    await release_sources.download_release("20260907", tmp_path, steps.append)

    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "runsc",
        "gvisor-bin/gvisor_sentry",
    }
    assert os.access(tmp_path / "runsc", os.X_OK)
    assert max(step.done for step in steps) == len(packed)


async def test_a_release_that_is_not_what_its_checksum_says_is_refused(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket({"gvisor.tar.bz2": archive(runsc=b"evil"), "gvisor.tar.bz2.sha512": b"0" * 128})

    with pytest.raises(ReleaseError, match="sha512"):
        await release_sources.download_release("20260907", tmp_path, ignore)

    assert not (tmp_path / "runsc").exists()


@pytest.mark.parametrize("checksum", [b"", b"short", b"<html>not found</html>"])
async def test_a_checksum_that_is_none_is_refused(bucket: Bucket, tmp_path: Path, checksum: bytes) -> None:
    bucket({"gvisor.tar.bz2": archive(runsc=b"x"), "gvisor.tar.bz2.sha512": checksum})

    with pytest.raises(ReleaseError):
        await release_sources.download_release("20260907", tmp_path, ignore)


async def test_a_release_that_is_not_there_falls_through(bucket: Bucket, tmp_path: Path) -> None:
    bucket({})

    with pytest.raises(ReleaseError, match="404"):
        await release_sources.download_release("20260907", tmp_path, ignore)


async def test_an_archive_cannot_write_outside(bucket: Bucket, tmp_path: Path) -> None:
    packed = archive(runsc=b"x", **{"gvisor-bin__..__..__escaped": b"x"})
    digest = hashlib.sha512(packed).hexdigest().encode()
    bucket({"gvisor.tar.bz2": packed, "gvisor.tar.bz2.sha512": digest})
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)

    with pytest.raises(ReleaseError):
        await release_sources.download_release("20260907", inner, ignore)

    assert not list(tmp_path.rglob("escaped"))
