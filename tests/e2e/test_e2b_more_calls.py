"""Calls of the released client that no other file here makes."""

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from e2b import (
    FileNotFoundException,
    FilesystemEventType,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    Template,
)
from e2b.sandbox.commands.command_handle import PtySize


def test_files_and_directories(sandbox: Sandbox) -> None:
    files = sandbox.files
    assert files.make_dir("/tmp/more")
    files.write("/tmp/more/a", "x")
    assert [entry.name for entry in files.list("/tmp/more")] == ["a"]
    assert files.get_info("/tmp/more/a").size == 1
    assert files.rename("/tmp/more/a", "/tmp/more/b").path == "/tmp/more/b"
    assert files.exists("/tmp/more/b")
    files.remove("/tmp/more")
    assert not files.exists("/tmp/more/b")


def test_a_polled_watch(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("/tmp/polled")
    watch = sandbox.files.watch_dir("/tmp/polled")
    sandbox.files.write("/tmp/polled/new", "x")
    events, end = [], time.monotonic() + 20
    while not any(event.type is FilesystemEventType.WRITE for event in events) and time.monotonic() < end:
        events += watch.get_new_events()
    watch.stop()
    assert {event.name for event in events} == {"new"}


def test_terminals(sandbox: Sandbox) -> None:
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
    again = sandbox.pty.connect(terminal.pid)
    assert again.pid == terminal.pid
    assert sandbox.pty.kill(terminal.pid)


def test_metrics_and_urls(sandbox: Sandbox, client_options: dict[str, Any]) -> None:
    assert sandbox.get_metrics() is not None
    assert sandbox.download_url("/tmp/x").startswith(client_options["sandbox_url"])
    assert sandbox.upload_url("/tmp/x").startswith(client_options["sandbox_url"])


def test_input_is_streamed_to_a_terminal(sandbox: Sandbox) -> None:
    shown = bytearray()
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80))

    sandbox.pty.stream_input(terminal.pid, ["stty ", b"size; ", "exit\n"])
    terminal.wait(on_pty=shown.extend)

    assert b"24 80" in shown
    with pytest.raises(NotFoundException):
        sandbox.pty.stream_input(terminal.pid, ["late"])
    with pytest.raises(InvalidArgumentException):
        sandbox.pty.stream_input(terminal.pid, "in one piece")
    with pytest.raises(NotFoundException):
        sandbox.pty.resize(terminal.pid, PtySize(rows=24, cols=80))


def test_a_handle_is_typed_to_iterated_and_let_go(sandbox: Sandbox) -> None:
    command = sandbox.commands.run("cat; echo end >&2", background=True, stdin=True)
    command.send_stdin("typed\n")
    command.close_stdin()
    assert list(command) == [("typed\n", None, None), (None, "end\n", None)]
    with pytest.raises(NotFoundException):
        command.send_stdin("late")

    held = sandbox.commands.run("sleep 60", background=True)
    held.disconnect()
    with pytest.raises(SandboxException, match="stdin not enabled"):
        held.send_stdin("x")
    assert held.pid in {process.pid for process in sandbox.commands.list()}
    assert sandbox.commands.kill(held.pid)

    quiet = sandbox.commands.run("echo a", retain_output=False)
    assert (quiet.stdout, quiet.exit_code) == (None, 0)


def test_a_watch_tells_of_what_is_below_with_its_entry(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("/tmp/told/deep")
    watch = sandbox.files.watch_dir(
        "/tmp/told", recursive=True, include_entry=True, allow_network_mounts=True
    )
    sandbox.files.write("/tmp/told/deep/new", "123")
    events, end = [], time.monotonic() + 20
    while not any(event.type is FilesystemEventType.WRITE for event in events) and time.monotonic() < end:
        events += watch.get_new_events()
    watch.stop()

    assert {event.entry.path for event in events if event.entry} == {"/tmp/told/deep/new"}
    with pytest.raises(SandboxException):
        watch.get_new_events()
    with pytest.raises(FileNotFoundException):
        sandbox.files.watch_dir("/tmp/none")


def test_the_gateway_of_mcp_is_asked_for_in_vain(sandbox: Sandbox, client_options: dict[str, Any]) -> None:
    """The template that has one is not there; what a sandbox keeps in its place is read."""
    assert f"50005-{sandbox.sandbox_id}" in sandbox.get_mcp_url()
    with pytest.raises(FileNotFoundException):
        sandbox.get_mcp_token()
    sandbox.files.write("/etc/mcp-gateway/.token", "token", user="root")
    assert sandbox.get_mcp_token() == "token"
    with pytest.raises(SandboxException, match="needs the program mcp-gateway"):
        Sandbox.create(mcp={"github/a/b": {"run_cmd": "x"}}, **client_options)


def test_templates_are_found_by_name(client_options: dict[str, Any]) -> None:
    for exists in (Template.exists, Template.alias_exists):
        assert exists("base", **client_options)
        assert exists("base:default", **client_options)
        assert not exists("no-such", **client_options)


def test_metrics_are_those_of_a_time_and_of_nobody_else(
    sandbox: Sandbox, client_options: dict[str, Any]
) -> None:
    now = datetime.now(UTC)

    assert sandbox.get_metrics(start=now + timedelta(hours=1), end=now + timedelta(hours=2)) == []
    with pytest.raises(SandboxNotFoundException):
        Sandbox.get_metrics("i" + "0" * 20, **client_options)


def test_a_sandbox_is_made_once_for_each_key(client_options: dict[str, Any]) -> None:
    key = uuid.uuid4().hex
    one, again = (
        Sandbox.create("minimal", timeout=60, idempotency_key=key, **client_options) for _ in range(2)
    )
    assert one.sandbox_id == again.sandbox_id
    with pytest.raises(SandboxException, match="422"):
        Sandbox.create("minimal", timeout=61, idempotency_key=key, **client_options)
    assert one.kill()


def test_a_pause_keeps_what_it_is_told_to(client_options: dict[str, Any]) -> None:
    wishes = {"on_timeout": {"action": "pause", "mode": "filesystem"}}
    with Sandbox.create("minimal", timeout=300, lifecycle=wishes, **client_options) as made:
        assert made.get_info().lifecycle == {"on_timeout": "pause", "auto_resume": False}
        made.files.write("/home/user/kept", "kept")
        boots = [made.files.read("/proc/sys/kernel/random/boot_id")]
        for pause in (made.pause, made.beta_pause):
            assert pause(mode="filesystem")
            made.connect(timeout=300)
            boots.append(made.files.read("/proc/sys/kernel/random/boot_id"))
        assert made.pause(strict=True)
        assert not made.pause(strict=True)
        made.connect(timeout=300, on_resume="reboot")
        boots.append(made.files.read("/proc/sys/kernel/random/boot_id"))

        assert len(set(boots)) == 4
        assert made.files.read("/home/user/kept") == "kept"
