"""What sandboxes are kept in a real S3 server for: they come back from there alone, whatever it does."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.home import LiveHome, fresh_home
from support.s3_server import ACCESS, BUCKET, SECRET, S3Server, s3_server

from atoll import FailedPreconditionError, Sandbox, Snapshot, UnavailableError

# The server is built first: for who has time.
pytestmark = pytest.mark.heavy

# No raw copy stays, and what is deleted goes at once.
SETTINGS = """
[storage]
pack_after = "0s"
pack_every = "1s"
sweep_every = "1s"
raw_bytes = 0
s3_endpoint = "http://127.0.0.1:{port}"
s3_bucket = "{bucket}"
s3_region = "us-east-1"
s3_access_key = "{access}"
s3_secret_key = "{secret}"
s3_timeout = "2s"
"""
WRITE = "head -c {size} /dev/urandom | tee /dev/shm/held /home/user/held | sha256sum"
READ = "cat /dev/shm/held | sha256sum; cat /home/user/held | sha256sum"
SMALL, LARGE = 3_000_000, 60_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture(scope="module")
def own(server: S3Server) -> Iterator[LiveHome]:
    settings = SETTINGS.format(port=server.port, bucket=BUCKET, access=ACCESS, secret=SECRET)
    with fresh_home(settings) as home:
        yield home


@pytest.fixture(scope="module")
def options(own: LiveHome) -> dict[str, Any]:
    return own.options


@pytest.fixture
def sandbox(server: S3Server, options: dict[str, Any]) -> Iterator[Sandbox]:
    """One that nothing in the bucket is of yet."""
    until(lambda: server.objects == [])
    made = Sandbox.create("minimal", timeout=1200, **options)
    try:
        yield made
    finally:
        made.kill()
        made.close()


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.1)


def held(sandbox: Sandbox, size: int = SMALL) -> str:
    """Have it hold bytes that nothing else has, in memory and on its disk; returns their checksum."""
    return sandbox.commands.run(WRITE.format(size=size)).stdout.split()[0]


def holds(sandbox: Sandbox) -> set[str]:
    return set(sandbox.commands.run(READ).stdout.split()) - {"-"}


def raw(own: LiveHome) -> list[Path]:
    """List what is there of checkpoints as the runtime wrote them."""
    return list((own.path / "checkpoints").glob("*/*.img"))


def is_only_in_s3(own: LiveHome, server: S3Server) -> bool:
    """Whether there are checkpoints, and not a byte of their images in the home."""
    there = list((own.path / "checkpoints").glob("*/runs"))
    return bool(there and server.objects) and not raw(own) and not list((own.path / "blobs").glob("??/*"))


def test_what_is_paused_comes_back_from_s3_alone(own: LiveHome, server: S3Server, sandbox: Sandbox) -> None:
    content = held(sandbox)
    counter = sandbox.commands.run("sleep 1000", background=True, timeout=0)
    boot_id = sandbox.files.read("/proc/sys/kernel/random/boot_id")
    for _ in range(2):
        sandbox.pause()
        until(lambda: is_only_in_s3(own, server))

        sandbox.resume(1200)

        assert holds(sandbox) == {content}
        assert sandbox.files.read("/proc/sys/kernel/random/boot_id") == boot_id
        assert [one.pid for one in sandbox.commands.list()] == [counter.pid]


def test_snapshots_are_created_from_out_of_s3_and_deleting_frees_their_objects(
    own: LiveHome, server: S3Server, sandbox: Sandbox, options: dict[str, Any]
) -> None:
    content = held(sandbox)
    snapshots = [sandbox.snapshot(), sandbox.snapshot(memory=False)]
    until(lambda: is_only_in_s3(own, server))

    with Sandbox.create(snapshots[0].id, timeout=300, **options) as child:
        assert holds(child) == {content}
    with Sandbox.create(snapshots[1].id, timeout=300, **options) as child:
        assert content in child.commands.run("sha256sum /home/user/held").stdout
    both = len(server.objects)
    Snapshot.delete(snapshots[0].id, **options)
    until(lambda: 0 < len(server.objects) < both)
    with Sandbox.create(snapshots[1].id, timeout=300, **options) as child:
        assert content in child.commands.run("sha256sum /home/user/held").stdout
    Snapshot.delete(snapshots[1].id, **options)

    until(lambda: server.objects == [])


@pytest.mark.parametrize("damage", ["cut off", "another byte", "gone"])
def test_a_damaged_object_is_refused_by_name_and_nothing_is_given_up(
    own: LiveHome, server: S3Server, sandbox: Sandbox, damage: str
) -> None:
    content = held(sandbox)
    sandbox.pause()
    until(lambda: is_only_in_s3(own, server))
    run = random.Random(1).choice(server.objects)
    whole = run.read_bytes()
    changed = {"cut off": whole[:-1], "another byte": whole[:9] + bytes([whole[9] ^ 1]) + whole[10:]}
    run.write_bytes(changed[damage]) if damage in changed else run.unlink()

    with pytest.raises(FailedPreconditionError, match=f"{sandbox.id}.* is damaged"):
        sandbox.resume(1200)

    # Who runs the server reads which object.
    assert run.name in own.log_tail()
    assert sandbox.info().status == "paused"
    run.write_bytes(whole)
    sandbox.resume(1200)
    assert holds(sandbox) == {content}


def test_a_server_that_goes_down_amidst_packing_loses_nothing_and_is_tried_again(
    own: LiveHome, server: S3Server, sandbox: Sandbox
) -> None:
    content = held(sandbox, LARGE)
    sandbox.pause()
    until(lambda: len(server.objects) > 20)
    server.kill()
    try:
        until(lambda: "checkpoint not packed" in own.log_tail())

        assert raw(own)
        assert sandbox.resume(1200).status == "running"
        assert holds(sandbox) == {content}
        sandbox.pause()
    finally:
        server.start()
    until(lambda: is_only_in_s3(own, server), 120)
    sandbox.resume(1200)
    assert holds(sandbox) == {content}


def test_what_is_only_there_waits_for_a_server_that_is_down(
    own: LiveHome, server: S3Server, sandbox: Sandbox
) -> None:
    content = held(sandbox)
    sandbox.pause()
    until(lambda: is_only_in_s3(own, server))
    server.kill()
    try:
        with pytest.raises(UnavailableError):
            sandbox.resume(1200)
        assert sandbox.info().status == "paused"
    finally:
        server.start()

    sandbox.resume(1200)

    assert holds(sandbox) == {content}


def test_gc_removes_objects_that_nothing_names_and_no_others(
    own: LiveHome, server: S3Server, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(*words: str) -> dict[str, Any]:
        done = own.atoll("gc", "--json", *words)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    for name, value in own.exports.items():
        monkeypatch.setenv(name, value)
    content = held(sandbox)
    sandbox.pause()
    until(lambda: is_only_in_s3(own, server))
    needed = server.objects
    # As a server left it that was killed.
    orphan = needed[0].with_name(needed[0].name[:2] + "0" * 62)
    orphan.write_bytes(b"of nobody")

    looked = collect("--dry-run")
    assert [one["kind"] for one in looked["leftovers"]] == ["runs"]
    assert orphan.exists()
    collect()

    assert server.objects == needed
    sandbox.resume(1200)
    assert holds(sandbox) == {content}
