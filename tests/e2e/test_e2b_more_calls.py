"""Calls of the released client that no other file here makes."""

import time
from typing import Any

from e2b import FilesystemEventType, Sandbox
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


def test_git(sandbox: Sandbox) -> None:
    git = sandbox.git
    git.init("/home/user/repo", initial_branch="main")
    git.configure_user("Ada", "ada@example.com")
    sandbox.files.write("/home/user/repo/a.txt", "a")
    git.add("/home/user/repo")
    git.commit("/home/user/repo", "first")
    git.create_branch("/home/user/repo", "side")
    status = git.status("/home/user/repo")
    assert status.current_branch == "side"
    assert "side" in git.branches("/home/user/repo").branches
