"""Volumes with our own client and command line: contents through the edge, and sandboxes that see them."""

import asyncio
import hashlib
import io
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.home import ATOLL, LiveHome

import atoll
from atoll import AsyncSandbox, AsyncVolume, FileType, Sandbox, Volume
from atoll.server.api.rest.contents import describe

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def options(home: LiveHome) -> dict[str, Any]:
    return home.options


@pytest.fixture
def volume(options: dict[str, Any]) -> Iterator[Volume]:
    with Volume.create(f"v-{uuid.uuid4().hex[:8]}", **options) as made:
        yield made
    Volume.delete(made.id, **options)


@pytest.fixture(scope="session")
def run(home: LiveHome) -> Run:
    env = {**os.environ, **home.exports}

    def call(*words: str, data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([ATOLL, *words], input=data, capture_output=True, timeout=120, env=env)

    return call


def test_contents_are_written_read_listed_and_removed(volume: Volume, tmp_path: Path) -> None:
    files = volume.files
    wrote = files.write("/notes/of/today.txt", "grüße", mode=0o600)

    assert (wrote.path, wrote.name, wrote.size) == ("/notes/of/today.txt", "today.txt", 7)
    assert (wrote.mode, wrote.permissions, wrote.owner, wrote.group) == (0o600, "-rw-------", "1000", "1000")
    assert wrote.type is FileType.FILE
    assert files.read("notes/of/today.txt") == "grüße"
    assert files.read("/notes/of/today.txt", format="bytes") == "grüße".encode()

    local = tmp_path / "local"
    local.write_bytes(os.urandom(3_000_000))
    content = local.read_bytes()
    for data in (local, io.BytesIO(content), iter([content[:7], content[7:]])):
        assert files.write("large", data).size == 3_000_000
        with files.read("large", format="stream") as stream:
            assert stream.size == 3_000_000
            assert digest(stream) == digest([content])

    assert files.make_dir("/notes/old", mode=0o700)
    assert not files.make_dir("/notes/old")
    assert files.make_dir("/a/b/c")
    assert files.stat("/notes/old").permissions == "drwx------"
    assert [one.path for one in files.list()] == ["/a", "/large", "/notes"]
    assert [one.path for one in files.list("/notes", depth=9)] == [
        "/notes/of", "/notes/of/today.txt", "/notes/old",
    ]  # fmt: skip

    files.remove("/notes")
    files.remove("/notes")
    assert not files.exists("/notes/of/today.txt")
    assert files.exists("/a/b/c")
    for call in (files.read, files.stat, files.list):
        with pytest.raises(atoll.NotFoundError):
            call("/notes")


def test_owner_and_mode_are_changed_one_by_one_and_sandboxes_see_it(
    volume: Volume, options: dict[str, Any], run: Run
) -> None:
    files = volume.files
    files.write("/owned/file", "x", mode=0o600)
    changed = files.change("/owned/file", mode=0o640)
    given = files.change("owned/file", gid=7)
    both = files.change("/owned", uid=0, gid=0, mode=0o1777)
    same = files.change("/owned/file")
    by_mode = run("volume", "chmod", f"{volume.name}:/owned/file", "4755")
    by_owner = run("volume", "chown", f"{volume.name}:/owned/file", "33:34")
    with Sandbox.create("minimal", timeout=300, volumes={"/data": volume}, **options) as sandbox:
        seen = sandbox.commands.run("stat -c %u:%g:%a /data/owned /data/owned/file", check=True).stdout

    assert (changed.mode, changed.owner, changed.group) == (0o640, "1000", "1000")
    assert (given.mode, given.owner, given.group) == (0o640, "1000", "7")
    assert (both.mode, both.owner, both.group, both.type) == (0o1777, "0", "0", FileType.DIRECTORY)
    assert same == given
    assert (by_mode.returncode, by_owner.returncode) == (0, 0), by_mode.stderr + by_owner.stderr
    # A change of the owner takes the bits away that give others its rights.
    assert seen.split() == ["0:0:1777", "33:34:755"]
    with pytest.raises(atoll.NotFoundError):
        files.change("/owned/nothing", mode=0o600)
    for wrong in ({"mode": 0o10000}, {"mode": -1}, {"uid": -1}, {"gid": 2**32}):
        with pytest.raises(atoll.InvalidArgumentError):
            files.change("/owned/file", **wrong)
    with pytest.raises(atoll.InvalidArgumentError):
        files.change("/../etc", mode=0o600)
    files.remove("/owned")


def digest(pieces: Any) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


@pytest.mark.parametrize(
    "path", ["/a\0b", "/../etc/passwd", "a/../../b", "/" + "x/" * 3000, "/" + "x" * 300, "\udcff"]
)
def test_a_path_that_is_none_is_refused_by_every_call(volume: Volume, path: str) -> None:
    files = volume.files
    for call in (
        files.read, files.stat, files.list, files.make_dir, files.exists, files.remove,
        lambda path: files.write(path, "x"),
    ):  # fmt: skip
        with pytest.raises(atoll.InvalidArgumentError):
            call(path)
    assert files.list() == []


def test_what_is_of_another_kind_is_said(volume: Volume) -> None:
    files = volume.files
    files.write("/file", "x")
    files.make_dir("/directory")

    with pytest.raises(atoll.AlreadyExistsError):
        files.make_dir("/file")
    with pytest.raises(atoll.InvalidArgumentError):
        files.write("/directory", "x")
    with pytest.raises(atoll.InvalidArgumentError):
        files.read("/directory")
    with pytest.raises(atoll.InvalidArgumentError):
        files.remove("/")
    for path in ("/file", "/file/below"):
        with pytest.raises(atoll.NotFoundError):
            files.list(path)
    with pytest.raises(atoll.InvalidArgumentError, match="depth"):
        files.list("/", depth=65)


def test_an_upload_that_ends_early_leaves_what_was_there(volume: Volume) -> None:
    volume.files.write("/file", "whole")

    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise KeyError("no more")

    with pytest.raises(KeyError):
        volume.files.write("/file", pieces())
    limit = time.monotonic() + 10
    while len(volume.files.list()) > 1:
        assert time.monotonic() < limit, volume.files.list()
    assert volume.files.read("/file") == "whole"


def test_sandboxes_share_what_outlives_them(volume: Volume, options: dict[str, Any]) -> None:
    volume.files.write("/from-outside", "1")
    wishes: dict[str, Any] = {"template": "minimal", "timeout": 300, **options}
    with (
        Sandbox.create(volumes={"/data": volume}, **wishes) as one,
        Sandbox.create(volumes={"/deep/in/there": volume.name}, **wishes) as other,
    ):
        assert one.files.read("/data/from-outside") == "1"
        one.commands.run("echo 2 > /data/from-one; ln -s /etc/passwd /data/link", check=True)
        assert other.files.read("/deep/in/there/from-one") == "2\n"
        assert volume.files.read("/from-one") == "2\n"
        assert [(mount.name, mount.path) for mount in one.info().volumes] == [(volume.name, "/data")]
        with pytest.raises(atoll.FailedPreconditionError, match="in use"):
            Volume.delete(volume.name, **options)
    assert volume.files.read("/from-one") == "2\n"
    # What is a link inside leads nowhere outside.
    link = volume.files.stat("/link")
    assert (link.type, link.symlink_target) == (FileType.SYMLINK, "/etc/passwd")
    with pytest.raises(atoll.InvalidArgumentError, match="leads out"):
        volume.files.read("/link")


def test_a_volume_that_was_deleted_opens_no_more(options: dict[str, Any]) -> None:
    with Volume.create("short-lived", **options) as made:
        made.files.write("/x", "x")
        Volume.delete("short-lived", **options)
        for call in (made.files.read, made.files.stat, made.files.list):
            with pytest.raises(atoll.NotFoundError):
                call("/")
        assert not made.files.exists("/x")


def test_a_stranger_opens_nothing(home: LiveHome, options: dict[str, Any], volume: Volume) -> None:
    team = atoll.Team.create(f"strangers-{uuid.uuid4().hex[:8]}", **options)
    key = atoll.Team.create_key("stranger", team=team.id, **options).key
    theirs = {**options, "api_key": key}

    for reference in (volume.name, volume.id):
        with pytest.raises(atoll.NotFoundError):
            Volume.get(reference, **theirs)
    assert Volume.list(**theirs) == []
    for shown in (key, options["api_key"], "x" * 64):
        answer = httpx.get(
            f"{options['api_url']}/volumecontent/{volume.id}/dir",
            params={"path": "/"},
            headers={"Authorization": f"Bearer {shown}"},
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_document_describes_what_the_edge_answers(options: dict[str, Any], volume: Volume) -> None:
    document: dict[str, Any] = {"paths": {}, "components": {"schemas": {}, "securitySchemes": {}}}
    describe(document)
    fields = document["components"]["schemas"]["ContentEntry"]["properties"]
    headers = {"Authorization": f"Bearer {options['api_key']}"}
    token = httpx.get(f"{options['api_url']}/v1/volumes/{volume.id}", headers=headers).json()["token"]
    # In this order: a file has to be there to be read.
    bodies: dict[tuple[str, str], Any] = {
        ("post", "dir"): None, ("get", "dir"): None, ("put", "file"): b"x", ("get", "file"): None,
        ("get", "path"): None, ("patch", "path"): b'{"mode": 384}', ("delete", "path"): None,
    }  # fmt: skip
    told = {
        (method, path.rpartition("/")[2]): (path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }

    assert told.keys() == bodies.keys()
    with httpx.Client(base_url=options["api_url"]) as client:
        for (method, what), body in bodies.items():
            path, operation = told[method, what]
            address = path.replace("{volume_id}", volume.id)
            place = {"post": "/d", "put": "/d/f"}.get(method, "/d" if what == "dir" else "/d/f")
            name = f"{method} {path}"
            refused = client.request(method, address, params={"path": place}, content=body)
            answer = client.request(
                method, address, params={"path": place}, content=body,
                headers={"Authorization": f"Bearer {token}"},
            )  # fmt: skip
            assert refused.status_code == 401, name
            assert refused.json().keys() == {"code", "message"}, name
            [wanted] = [code for code in operation["responses"] if code.startswith("2")]
            assert str(answer.status_code) == wanted, f"{name}: {answer.text}"
            if answer.headers.get("Content-Type", "").startswith("application/json"):
                found = answer.json()
                for entry in found if isinstance(found, list) else [found]:
                    assert entry.keys() == fields.keys() - {"target"}, name


def test_the_asynchronous_client_is_content(options: dict[str, Any]) -> None:
    async def flow() -> None:
        async with await AsyncVolume.create("async", **options) as volume:

            async def pieces() -> Any:
                for piece in (b"as", b"ync"):
                    yield piece

            await volume.files.write("/a.txt", pieces())
            async with await AsyncSandbox.create(
                "minimal", timeout=300, volumes={"/data": volume}, **options
            ) as sandbox:
                assert await sandbox.files.read("/data/a.txt") == "async"
            assert [one.name for one in await volume.files.list()] == ["a.txt"]
            async with await volume.files.read("a.txt", format="stream") as stream:
                assert b"".join([piece async for piece in stream]) == b"async"
        await AsyncVolume.delete("async", **options)

    asyncio.run(flow())


def test_the_command_line_copies_lists_and_runs_with_a_volume(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "data").write_bytes(os.urandom(300_000))
    (source / "sub" / "hello").write_text("#!/bin/sh\necho hello from $0\n")
    (source / "sub" / "hello").chmod(0o755)
    (source / "link").symlink_to("/etc/passwd")
    made = run("volume", "create", "work")
    assert made.returncode == 0, made.stderr
    try:
        into = run("volume", "cp", str(source), "work:/there")
        listed = run("volume", "ls", "work:/there")
        long = run("volume", "ls", "-l", "work:there/sub")
        as_json = json.loads(run("volume", "ls", "--json", "work").stdout)
        ran = run("run", "-t", "minimal", "-v", "work:/work", "--", "/work/there/sub/hello")
        line = "date > /work/when; touch /work/$(printf 'a\\033b')"
        wrote = run("run", "-t", "minimal", "-v", "work:/work", "--", "sh", "-c", line)
        names = run("volume", "ls", "work")
        out = run("volume", "cp", "work:/there", str(tmp_path / "back"))
        one = run("volume", "cp", "work:/when", str(tmp_path))
        whole = run("volume", "cp", "work:", str(tmp_path))
        removed = run("volume", "rm", "work:/there")
        missing = run("volume", "rm", "work:/there")
        nowhere = run("volume", "cp", "work:/nosuch", str(tmp_path / "x"))
    finally:
        assert run("volume", "delete", "work").returncode == 0

    assert b"2 files copied" in into.stderr
    assert b"not copied, a link" in into.stderr
    assert listed.stdout == b"data\nsub/\n"
    assert long.stdout.startswith(b"-rwxr-xr-x  1000:1000")
    assert [(entry["path"], entry["type"]) for entry in as_json] == [("/there", "directory")]
    assert (ran.returncode, ran.stdout) == (0, b"hello from /work/there/sub/hello\n"), ran.stderr
    assert wrote.returncode == 0, wrote.stderr
    assert names.stdout == b"a\\x1bb\nthere/\nwhen\n"
    assert out.returncode == one.returncode == whole.returncode == removed.returncode == 0
    assert (tmp_path / "work" / "there" / "data").read_bytes() == (source / "data").read_bytes()
    back = tmp_path / "back"
    assert sorted(str(path.relative_to(back)) for path in back.rglob("*")) == ["data", "sub", "sub/hello"]
    assert (back / "data").read_bytes() == (source / "data").read_bytes()
    assert os.access(back / "sub" / "hello", os.X_OK)
    assert (tmp_path / "when").read_text().strip()
    for failed in (missing, nowhere):
        assert failed.returncode == 1
        assert b"not found" in failed.stderr


def test_at_its_deadline_a_sandbox_is_paused_and_a_request_wakes_it(options: dict[str, Any]) -> None:
    with Sandbox.create("minimal", timeout=3, on_deadline="pause", auto_resume=True, **options) as sandbox:
        sandbox.commands.run("echo kept > /tmp/file", check=True)
        limit = time.monotonic() + 60
        while (info := sandbox.info()).status != "paused":
            assert time.monotonic() < limit, info
            time.sleep(0.2)
        assert (info.on_deadline, info.auto_resume) == ("pause", True)
        assert sandbox.files.read("/tmp/file") == "kept\n"
        assert sandbox.info().status == "running"
