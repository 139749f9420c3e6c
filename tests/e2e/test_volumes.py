"""Volumes through the released clients: their calls, their contents, and sandboxes that share one."""

import asyncio
import io
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    AsyncVolume,
    NotFoundException,
    Sandbox,
    SandboxException,
    Volume,
    VolumeException,
)
from support.home import LiveHome

pytestmark = pytest.mark.usefixtures("volume_url")


@pytest.fixture
def volume_url(client_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As `atoll env` exports it."""
    monkeypatch.setenv("E2B_VOLUME_API_URL", client_options["api_url"])


@pytest.fixture
def options(client_options: dict[str, Any]) -> dict[str, Any]:
    """What volumes take: no address of sandboxes."""
    return {"api_key": client_options["api_key"], "api_url": client_options["api_url"]}


@pytest.fixture
def volume(options: dict[str, Any], volume_url: None) -> Iterator[Volume]:
    made = Volume.create(f"v-{uuid.uuid4().hex[:8]}", **options)
    yield made
    Volume.destroy(made.volume_id, **options)


def test_volumes_are_made_listed_found_and_destroyed(options: dict[str, Any]) -> None:
    made = Volume.create("letters", **options)
    assert made.token
    with pytest.raises(VolumeException, match="exists"):
        Volume.create("letters", **options)

    assert made.volume_id in [one.volume_id for one in Volume.list(**options)]
    assert Volume.get_info(made.volume_id, **options).name == "letters"
    again = Volume.connect(made.volume_id, **options)
    assert (again.name, again.token) == ("letters", made.token)

    assert Volume.destroy(made.volume_id, **options)
    assert not Volume.destroy(made.volume_id, **options)
    with pytest.raises(NotFoundException):
        Volume.get_info(made.volume_id, **options)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "x" * 64, "ä"])
def test_a_name_that_is_none_is_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(VolumeException, match="400"):
        Volume.create(name, **options)


def test_contents_are_written_read_listed_changed_and_removed(volume: Volume) -> None:
    wrote = volume.write_file("/notes/today.txt", "hello", force=True, mode=0o600)
    assert (wrote.path, wrote.size, wrote.mode, wrote.uid) == ("/notes/today.txt", 5, 0o600, 1000)
    assert volume.read_file("/notes/today.txt") == "hello"
    assert volume.read_file("/notes/today.txt", format="bytes") == b"hello"

    volume.write_file("/notes/today.txt", io.BytesIO(b"x" * 3_000_000))
    assert sum(len(part) for part in volume.read_file("/notes/today.txt", format="stream")) == 3_000_000

    made = volume.make_dir("/notes/old", uid=0, gid=0, mode=0o700)
    assert (made.type.value, made.uid, made.mode) == ("directory", 0, 0o700)
    assert {one.path for one in volume.list("/notes")} == {"/notes/today.txt", "/notes/old"}
    assert [one.path for one in volume.list("/")] == ["/notes"]
    assert len(volume.list("/", depth=2)) == 3
    assert volume.update_metadata("/notes/today.txt", mode=0o640).mode == 0o640
    assert volume.exists("/notes/today.txt")

    volume.remove("/notes")
    assert not volume.exists("/notes/today.txt")
    for call in (volume.read_file, volume.get_info, volume.list, volume.remove):
        with pytest.raises(NotFoundException):
            call("/notes")
    with pytest.raises(NotFoundException):
        volume.write_file("/no/such/parent", "x")


def test_sandboxes_share_a_volume_that_outlives_them(volume: Volume, client_options: dict[str, Any]) -> None:
    volume.write_file("from-outside", "1")
    mounts = {"/data/shared": volume}
    one = Sandbox.create("minimal", timeout=300, volume_mounts=mounts, **client_options)
    other = Sandbox.create("minimal", timeout=300, volume_mounts=mounts, **client_options)
    try:
        assert one.files.read("/data/shared/from-outside") == "1"
        one.commands.run(
            "echo 2 > /data/shared/from-one && mkdir /data/shared/d && ln -s /etc/passwd /data/shared/l"
        )
        assert other.files.read("/data/shared/from-one") == "2\n"
        other.commands.run("echo 3 >> /data/shared/from-one")
        assert one.commands.run("cat /data/shared/from-one").stdout == "2\n3\n"
        assert volume.read_file("/from-one") == "2\n3\n"
        # What is a link inside leads nowhere outside.
        assert volume.get_info("/l").target == "/etc/passwd"
        with pytest.raises(VolumeException, match="leads out"):
            volume.read_file("/l")
        assert one.get_info().volume_mounts == [{"name": volume.name, "path": "/data/shared"}]
        with pytest.raises(VolumeException, match="in use"):
            Volume.destroy(
                volume.volume_id, api_key=client_options["api_key"], api_url=client_options["api_url"]
            )
    finally:
        one.kill()
        other.kill()
    assert volume.read_file("/from-one") == "2\n3\n"


def test_a_volume_that_is_full_is_full_and_the_host_is_not(
    client_options: dict[str, Any], volume: Volume
) -> None:
    sandbox = Sandbox.create("minimal", timeout=300, volume_mounts={"/data": volume}, **client_options)
    try:
        told = sandbox.commands.run("df -B1 --output=size /data | tail -1").stdout
        assert 9 * 2**30 < int(told) < 10 * 2**30
        done = sandbox.commands.run("fallocate -l 20G /data/large; echo $?; touch /data/small && echo lives")
        assert done.stdout.splitlines() == ["1", "lives"]
    finally:
        sandbox.kill()


def test_root_inside_makes_nothing_of_it_that_the_host_would_obey(
    volume: Volume, client_options: dict[str, Any], home: LiveHome
) -> None:
    sandbox = Sandbox.create("minimal", timeout=300, volume_mounts={"/data": volume}, **client_options)
    try:
        program = (
            "cp /bin/true /data/suid; chmod 4755 /data/suid; mknod /data/disk b 8 0; mknod /data/null c 1 3;"
            "ln -s / /data/root; mount --bind / /data/d; echo done"
        )
        assert sandbox.commands.run(program, user="root").stdout.endswith("done\n")
    finally:
        sandbox.kill()
    place = home.path / "volumes" / volume.volume_id
    options = next(
        line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {place} " in line
    )
    assert {"nosuid", "nodev"} <= set(options.split()[3].split(","))
    with pytest.raises(VolumeException, match="leads out"):
        volume.read_file("/root/etc/passwd")
    volume.remove("/root")
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("/", "system"),
        ("/proc/x", "system"),
        ("relative", "at 'relative'"),
        ("/a/../b", "cannot be mounted"),
        ("/etc", "system"),
    ],
)
def test_a_place_that_will_not_do_is_refused(
    volume: Volume, client_options: dict[str, Any], path: str, complaint: str
) -> None:
    with pytest.raises(Exception, match=complaint):
        Sandbox.create("minimal", volume_mounts={path: volume}, **client_options)


def test_a_volume_that_is_not_there_is_named(client_options: dict[str, Any]) -> None:
    with pytest.raises(SandboxException, match="404: Volume 'nosuch' not found"):
        Sandbox.create("minimal", volume_mounts={"/data": "nosuch"}, **client_options)


def test_another_volumes_token_opens_nothing(volume: Volume, options: dict[str, Any]) -> None:
    other = Volume.create("other", **options)
    try:
        answer = httpx.get(
            f"{options['api_url']}/volumecontent/{volume.volume_id}/dir",
            params={"path": "/"},
            headers={"Authorization": f"Bearer {other.token}"},
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    finally:
        Volume.destroy(other.volume_id, **options)


def test_the_asynchronous_client_is_content(options: dict[str, Any], client_options: dict[str, Any]) -> None:
    async def flow() -> None:
        volume = await AsyncVolume.create("async", **options)
        try:
            await volume.write_file("/a.txt", "async")
            sandbox = await AsyncSandbox.create(
                "minimal", timeout=300, volume_mounts={"/data": volume}, **client_options
            )
            assert await sandbox.files.read("/data/a.txt") == "async"
            await sandbox.kill()
            assert [one.name for one in await volume.list("/")] == ["a.txt"]
        finally:
            assert await AsyncVolume.destroy(volume.volume_id, **options)

    asyncio.run(flow())
