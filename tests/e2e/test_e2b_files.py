"""The released E2B client moves files in and out of real sandboxes."""

import hashlib
import io
import os

import httpx
import pytest
from e2b import FileNotFoundException, InvalidArgumentException, NotEnoughSpaceException, Sandbox
from e2b.sandbox.filesystem.filesystem import WriteEntry


def test_text_and_bytes_come_back_as_written(sandbox: Sandbox) -> None:
    data = os.urandom(100_000)

    sandbox.files.write("notes/hello.txt", "grüezi\n")
    sandbox.files.write("/tmp/blob", data)

    assert sandbox.files.read("notes/hello.txt") == "grüezi\n"
    assert bytes(sandbox.files.read("/tmp/blob", format="bytes")) == data
    assert sandbox.commands.run("stat -c '%U %a' notes/hello.txt").stdout == "user 644\n"


def test_a_large_stream_goes_up_and_down(sandbox: Sandbox) -> None:
    data = os.urandom(1 << 20) * 24

    sandbox.files.write("/tmp/large", io.BytesIO(data))
    back = hashlib.sha256()
    for chunk in sandbox.files.read("/tmp/large", format="stream"):
        back.update(chunk)

    assert back.digest() == hashlib.sha256(data).digest()


def test_gzip_both_ways(sandbox: Sandbox) -> None:
    sandbox.files.write("/tmp/z", "z" * 10_000, gzip=True)

    assert sandbox.files.read("/tmp/z", gzip=True) == "z" * 10_000


def test_signed_urls_need_nothing_but_themselves(sandbox: Sandbox, client_options: dict[str, str]) -> None:
    """Where all sandboxes share one address, they do not say whose they are."""
    sandbox.files.write("a ü.txt", "signed")
    other = Sandbox.create("minimal", timeout=60, **client_options)
    try:
        other.files.write("a ü.txt", "of another")
        assert httpx.get(sandbox.download_url("a ü.txt")).text == "signed"
        assert httpx.get(other.download_url("a ü.txt", use_signature_expiration=60)).text == "of another"
    finally:
        other.kill()
    upload = httpx.post(sandbox.upload_url("/tmp/up"), files={"file": b"by a stranger"})
    assert upload.status_code == 200
    assert sandbox.files.read("/tmp/up") == "by a stranger"

    late = httpx.get(sandbox.download_url("a ü.txt", use_signature_expiration=-10))
    assert (late.status_code, late.json()["message"]) == (401, "signature is already expired")
    forged = httpx.get(sandbox.download_url("a ü.txt") + "x")
    assert (forged.status_code, forged.json()["message"]) == (401, "invalid signature")
    unsigned = sandbox.download_url("a ü.txt").partition("&signature")[0]
    assert httpx.get(unsigned).status_code in {401, 404}


def test_a_token_is_enough_to_reach_its_sandbox(sandbox: Sandbox, client_options: dict[str, str]) -> None:
    """Clients of E2B's first years leave the routing headers out of some requests."""
    sandbox.files.write("/tmp/by-token", "found")
    url, token = client_options["sandbox_url"], sandbox.connection_config.sandbox_headers["X-Access-Token"]

    found = httpx.get(f"{url}/files", params={"path": "/tmp/by-token"}, headers={"X-Access-Token": token})
    refused = httpx.get(
        f"{url}/files", params={"path": "/tmp/by-token"}, headers={"X-Access-Token": "0" * 64}
    )

    assert found.text == "found"
    assert refused.status_code == 401


def test_many_files_at_once(sandbox: Sandbox) -> None:
    written = sandbox.files.write_files([WriteEntry(path=f"/tmp/many/{n}", data=str(n)) for n in range(20)])

    assert sorted(info.path for info in written) == sorted(f"/tmp/many/{n}" for n in range(20))
    assert sandbox.files.read("/tmp/many/7") == "7"


def test_listing_tells_types_sizes_and_links(sandbox: Sandbox) -> None:
    sandbox.commands.run("mkdir -p d/sub && echo 12345 > d/file && ln -s file d/link && touch d/sub/deep")

    flat = {entry.name: entry for entry in sandbox.files.list("d")}
    deep = {entry.path for entry in sandbox.files.list("d", depth=2)}

    assert set(flat) == {"sub", "file", "link"}
    assert flat["file"].size == 6
    assert flat["link"].symlink_target == "file" or flat["link"].symlink_target == "/home/user/d/file"
    assert "/home/user/d/sub/deep" in deep


def test_rename_remove_exists_and_make_dir(sandbox: Sandbox) -> None:
    sandbox.files.write("a", "1")

    assert sandbox.files.make_dir("x/y")
    assert not sandbox.files.make_dir("x/y")
    sandbox.files.rename("a", "x/y/b")

    assert not sandbox.files.exists("a")
    assert sandbox.files.exists("x/y/b")
    sandbox.files.remove("x")
    assert not sandbox.files.exists("x/y/b")


def test_a_missing_file_is_reported_as_such(sandbox: Sandbox) -> None:
    with pytest.raises(FileNotFoundException):
        sandbox.files.read("no-such-file")
    with pytest.raises(FileNotFoundException):
        sandbox.files.list("no-such-dir")


def test_a_path_with_nul_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list("a\x00b")
    with pytest.raises(Exception, match=r"(?i)nul|invalid"):
        sandbox.files.write("a\x00b", "x")


def test_metadata_stays_with_the_file(sandbox: Sandbox) -> None:
    sandbox.files.write("tagged", "x", metadata={"origin": "test"})

    assert sandbox.files.get_info("tagged").metadata == {"origin": "test"}


def test_a_watch_reports_what_happens(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("watched")
    watch = sandbox.files.watch_dir("watched")
    sandbox.files.write("watched/new", "1")
    sandbox.commands.run("sync")

    seen = {event.name for event in watch.get_new_events()}
    watch.stop()

    assert "new" in seen


def test_a_full_disk_is_said_and_the_sandbox_lives_on(sandbox: Sandbox) -> None:
    filled = sandbox.commands.run("dd if=/dev/zero of=fill bs=1M; echo code $?", timeout=280)

    assert "No space left on device" in filled.stderr
    with pytest.raises(NotEnoughSpaceException):
        sandbox.files.write("more", b"x" * (8 << 20))
    sandbox.files.remove("fill")
    sandbox.files.write("more", b"x" * (8 << 20))
    assert sandbox.commands.run("stat -c %s more").stdout == f"{8 << 20}\n"
