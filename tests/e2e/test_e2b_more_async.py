"""Calls of the released asyncio client that no other file here makes."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    AsyncSecret,
    AsyncTemplate,
    AsyncVolume,
    BuildInfo,
    FileNotFoundException,
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    Secret,
    Template,
)
from e2b.sandbox.commands.command_handle import PtySize
from e2b.sandbox.filesystem.filesystem import FileType

SIZE = PtySize(rows=24, cols=80)
NOBODY = "i" + "0" * 20


@pytest.fixture
async def live(sandbox: Sandbox, client_options: dict[str, Any]) -> AsyncSandbox:
    """The file's sandbox, for asyncio."""
    return await AsyncSandbox.connect(sandbox.sandbox_id, **client_options)


async def test_input_is_streamed_to_a_command_until_it_is_closed(live: AsyncSandbox) -> None:
    command = await live.commands.run("wc -c", background=True, stdin=True)

    async with live.commands.stream_input(command.pid) as stream:
        for _ in range(100):
            await stream.send(b"x" * 1000)
    await command.close_stdin()

    assert (await command.wait()).stdout == "100000\n"
    with pytest.raises(SandboxException, match="closed"):
        await stream.send("late")
    nowhere = live.commands.stream_input(command.pid)
    with pytest.raises(NotFoundException):
        await nowhere.close()


async def test_input_is_streamed_to_a_terminal_that_another_follows(live: AsyncSandbox) -> None:
    shown, followed = bytearray(), bytearray()
    terminal = await live.pty.create(SIZE, on_data=shown.extend, envs={"MINE": "x"}, cwd="/tmp")
    follower = await live.pty.connect(terminal.pid, on_data=followed.extend)

    async with live.pty.stream_input(terminal.pid) as stream:
        await stream.send("echo $MINE-")
        await stream.send(b"$PWD; exit\n")
    await asyncio.gather(terminal.wait(), follower.wait())

    assert b"x-/tmp\r\n" in shown
    assert b"x-/tmp\r\n" in followed
    # One that ended lately is told of; one that there was not is not.
    assert (await (await live.pty.connect(terminal.pid, on_data=followed.extend)).wait()).exit_code == 0
    with pytest.raises(NotFoundException):
        await live.pty.connect(999_999, on_data=followed.extend)
    with pytest.raises(NotFoundException):
        await live.pty.send_stdin(terminal.pid, b"late")


async def test_a_handle_is_typed_to_and_let_go(live: AsyncSandbox) -> None:
    command = await live.commands.run("cat", background=True, stdin=True)
    other = await live.commands.connect(command.pid)

    await other.disconnect()
    await command.send_stdin("typed\n")
    await command.close_stdin()

    assert (await command.wait()).stdout == "typed\n"
    with pytest.raises(NotFoundException):
        await command.send_stdin("late")
    deaf = await live.commands.run("sleep 60", background=True)
    with pytest.raises(SandboxException, match="stdin not enabled"):
        await deaf.send_stdin("x")
    assert await deaf.kill()


async def test_files_are_told_apart_streamed_and_missed(live: AsyncSandbox) -> None:
    files = live.files
    written = await files.write("/tmp/more/z", "z" * 10_000, gzip=True, metadata={"from": "test"})
    await live.commands.run("mkdir -p /tmp/more/a/b && ln -s z /tmp/more/link")

    entries = {entry.name: entry for entry in await files.list("/tmp/more", depth=2)}
    parts = [part async for part in await files.read("/tmp/more/z", format="stream", gzip=True)]

    assert (written.name, written.metadata) == ("z", {"from": "test"})
    assert {name: entry.type for name, entry in entries.items()} == {
        "a": FileType.DIR, "b": FileType.DIR, "link": FileType.FILE, "z": FileType.FILE,
    }  # fmt: skip
    assert b"".join(parts) == b"z" * 10_000
    assert await files.read("/root/.bashrc", user="root")
    for call in (files.read, files.list, files.get_info):
        with pytest.raises(FileNotFoundException):
            await call("/tmp/more/none")
    with pytest.raises(FileNotFoundException):
        await files.rename("/tmp/more/none", "/tmp/more/other")


async def test_signed_urls_need_nothing_but_themselves(live: AsyncSandbox) -> None:
    async with httpx.AsyncClient() as stranger:
        up = await stranger.post(await _told(live.upload_url("/tmp/up")), files={"file": b"by a stranger"})
        down = await stranger.get(await _told(live.download_url("/tmp/up", use_signature_expiration=60)))
        late = await stranger.get(await _told(live.download_url("/tmp/up", use_signature_expiration=-10)))

    assert (up.status_code, down.text, late.status_code) == (200, "by a stranger", 401)


async def _told(result: Any) -> Any:
    """Return what either client's call returns."""
    return await result if asyncio.iscoroutine(result) else result


async def test_the_network_is_changed_and_the_gateway_of_mcp_is_named(
    live: AsyncSandbox, client_options: dict[str, Any]
) -> None:
    await live.update_network({"deny_out": ["192.0.2.0/24"]})
    assert (await live.get_info()).network["deny_out"] == ["192.0.2.0/24"]
    await live.update_network({})
    with pytest.raises(SandboxException, match="400"):
        await live.update_network({"deny_out": ["no address"]})
    with pytest.raises(SandboxNotFoundException):
        await AsyncSandbox.update_network(NOBODY, {}, **client_options)

    assert live.get_mcp_url().endswith("/mcp")
    assert f"50005-{live.sandbox_id}" in live.get_mcp_url()
    await live.files.write("/etc/mcp-gateway/.token", "token", user="root")
    assert await live.get_mcp_token() == "token"


async def test_templates_are_found_by_name(client_options: dict[str, Any]) -> None:
    for client in (AsyncTemplate.exists, AsyncTemplate.alias_exists):
        assert await client("base", **client_options)
        assert await client("base:default", **client_options)
        assert not await client("no-such", **client_options)


async def test_volumes_have_contents(client_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_VOLUME_API_URL", client_options["api_url"])
    options = {name: client_options[name] for name in ("api_key", "api_url")}
    made = await AsyncVolume.create(f"v-{uuid.uuid4().hex[:8]}", **options)
    try:
        volume = await AsyncVolume.connect(made.volume_id, **options)
        await volume.make_dir("/notes", mode=0o700)
        await volume.write_file("/notes/a", "hello")
        assert (await volume.update_metadata("/notes/a", mode=0o640)).mode == 0o640
        assert await volume.read_file("/notes/a") == "hello"
        assert (await AsyncVolume.get_info(made.volume_id, **options)).name == made.name
        await volume.remove("/notes")
        assert not await volume.exists("/notes/a")
        with pytest.raises(NotFoundException):
            await volume.read_file("/notes/a")
    finally:
        assert await AsyncVolume.destroy(made.volume_id, **options)
    with pytest.raises(NotFoundException):
        await AsyncVolume.connect(made.volume_id, **options)


def test_what_stands_for_a_secret_is_the_same_for_both_clients() -> None:
    token = {"audience": "aws", "token_type": "JWT-SVID"}

    assert AsyncSecret.fill("name") == Secret.fill("name")
    assert AsyncSecret.iam_token(**token) == Secret.iam_token(**token)


async def test_builds_and_tags_of_templates_are_refused_by_name(client_options: dict[str, Any]) -> None:
    """Until there are any; clients that get a 404 would take it for something else."""
    build = BuildInfo(alias="x", name="x", template_id="x", build_id="00000000-0000-0000-0000-000000000000")
    for client in (Template, AsyncTemplate):
        recipe = client().from_image("debian")
        for name, given in (
            ("build", (recipe, "x")),
            ("build_in_background", (recipe, "x")),
            ("get_build_status", (build,)),
            ("get_tags", ("base",)),
            ("assign_tags", ("base", "new")),
            ("remove_tags", ("base", "new")),
        ):
            with pytest.raises(Exception, match=r"501: .* not available"):
                await _told(getattr(client, name)(*given, **client_options))
