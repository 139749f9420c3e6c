"""Sandboxes that come back: after a kill of what isolates them, a fall of the machine, and `atoll down`."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
from e2b import Sandbox as E2BSandbox
from support.home import LiveHome, fresh_home

from atoll import CommandHandle, FailedPreconditionError, NotFoundError, Sandbox, SandboxInfo, Snapshot

SETTINGS = """
[sandboxes]
min_snapshot_every = "1s"
"""


@pytest.fixture(scope="module")
def own() -> Iterator[LiveHome]:
    with fresh_home(SETTINGS) as home:
        yield home


@pytest.fixture(scope="module")
def options(own: LiveHome) -> dict[str, Any]:
    return own.options


def until(what: Callable[[], bool], seconds: float = 40) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.1)


def back(sandbox: Sandbox, generation: int) -> SandboxInfo:
    """Wait until it runs in a later generation."""
    until(lambda: (info := sandbox.info()).status == "running" and info.generation >= generation)
    return sandbox.info()


def held(sandbox: Sandbox, text: str) -> None:
    """Have it hold a text in memory and on its disk."""
    sandbox.files.write("/dev/shm/held", text)
    sandbox.files.write("/home/user/held", text)


def holds(sandbox: Sandbox) -> tuple[str, str]:
    return sandbox.files.read("/dev/shm/held"), sandbox.files.read("/home/user/held")


def kill_outside(own: LiveHome, sandbox: Sandbox, word: str) -> None:
    """Kill a process of the host that is part of a sandbox's isolation."""
    found = [one for one in own.processes(word) if sandbox.id in " ".join(one.cmdline())]
    assert found, [one.cmdline()[:3] for one in own.processes("runsc")]
    found[0].kill()


def kill_guestd(_: LiveHome, sandbox: Sandbox) -> None:
    # Whatever the end of its stream looks like.
    with suppress(Exception):
        sandbox.commands.run("kill -9 1", user="root", timeout=5)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda own, one: kill_outside(own, one, "runsc-sandbox"), id="sentry"),
        pytest.param(lambda own, one: kill_outside(own, one, "runsc-gofer"), id="gofer"),
        pytest.param(kill_guestd, id="guestd"),
    ],
)
def test_who_is_killed_comes_back_from_its_last_snapshot(
    own: LiveHome, options: dict[str, Any], end: Callable[[LiveHome, Sandbox], None]
) -> None:
    with Sandbox.create("minimal", timeout=600, restart="from_snapshot", **options) as sandbox:
        held(sandbox, "before")
        sleeping = sandbox.commands.run("sleep 1000", background=True, timeout=0)
        snapshot = sandbox.snapshot()
        held(sandbox, "lost")

        end(own, sandbox)
        info = back(sandbox, 2)

        # The same client, with the token that it has: nothing of it is new.
        assert holds(sandbox) == ("before", "before")
        assert [one.pid for one in sandbox.commands.list()] == [sleeping.pid]
        assert info.fall is not None
        assert info.fall.snapshot_id == snapshot.id
        assert info.fall.reason in ("runtime_ended", "guest_ended")
        assert info.deadline is not None
        messages = [line.message for line in sandbox.logs()]
        assert "sandbox's machine ended" in messages
        assert "sandbox came back" in messages
    Snapshot.delete(snapshot.id, **options)


def test_after_the_machine_was_away_what_is_persistent_is_there(
    own: LiveHome, options: dict[str, Any]
) -> None:
    kept = Sandbox.create("minimal", persistent=True, **options)
    bare = Sandbox.create("minimal", persistent=True, **options)
    other = Sandbox.create("minimal", timeout=600, **options)
    try:
        assert kept.info().deadline is None
        with pytest.raises(FailedPreconditionError, match="persistent"):
            kept.set_timeout(10)
        held(kept, "before")
        held(bare, "lost")
        kept.snapshot()
        held(kept, "lost")

        os.kill(own.server_pid(), signal.SIGKILL)
        os.kill(own.edge_pid(), signal.SIGKILL)
        for process in own.processes("runsc"):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        until(lambda: not own.processes("runsc"))
        own.start()

        assert back(kept, 2).persistent
        back(bare, 2)
        assert holds(kept) == ("before", "before")
        with pytest.raises(NotFoundError):
            bare.files.read("/home/user/held")
        assert bare.commands.run("echo up").stdout == "up\n"
        until(lambda: other.info().end_reason == "lost")
    finally:
        for sandbox in (kept, bare, other):
            sandbox.kill()
            sandbox.close()


def test_down_writes_what_is_persistent_down_and_up_resumes_it(
    own: LiveHome, options: dict[str, Any]
) -> None:
    sandbox = Sandbox.create("minimal", persistent=True, **options)
    try:
        held(sandbox, "now")
        boot_id = sandbox.files.read("/proc/sys/kernel/random/boot_id")

        own.down()
        assert not own.processes("runsc")
        own.start()

        back(sandbox, 2)
        assert holds(sandbox) == ("now", "now")
        assert sandbox.files.read("/proc/sys/kernel/random/boot_id") == boot_id
    finally:
        sandbox.kill()
        sandbox.close()


def test_parked_before_the_machine_stops_it_comes_back_with_what_it_had(
    own: LiveHome, options: dict[str, Any]
) -> None:
    kept = Sandbox.create("minimal", persistent=True, **options)
    other = Sandbox.create("minimal", timeout=600, **options)
    try:
        held(kept, "now")
        held(other, "now")

        parked = own.atoll("park", "--home", str(own.path))
        assert parked.returncode == 0, parked.stderr
        left = {word for one in own.processes("runsc-sandbox") for word in one.cmdline()}
        assert other.id in left
        assert kept.id not in left
        own.start()

        back(kept, 2)
        assert holds(kept) == ("now", "now")
        assert back(other, 1).generation == 1
        assert holds(other) == ("now", "now")
    finally:
        for sandbox in (kept, other):
            sandbox.kill()
            sandbox.close()


def test_a_schedule_takes_snapshots_and_keeps_the_newest(options: dict[str, Any]) -> None:
    with Sandbox.create(
        "minimal", timeout=600, snapshot_every=1, keep_snapshots=2, restart="from_snapshot", **options
    ) as sandbox:
        mine = sandbox.snapshot("mine")

        def scheduled() -> list[str]:
            return [one.id for one in Snapshot.list(sandbox_id=sandbox.id, **options) if one.scheduled]

        until(lambda: len(scheduled()) == 2)
        first = scheduled()
        until(lambda: not set(first) & set(scheduled()))
        assert len(scheduled()) <= 3
        assert mine.id in {one.id for one in Snapshot.list(sandbox_id=sandbox.id, **options)}
        assert sandbox.commands.run("echo on").stdout == "on\n"
    for one in Snapshot.list(sandbox_id=sandbox.id, **options):
        Snapshot.delete(one.id, **options)


def test_who_follows_a_command_is_a_caller_until_it_ends(options: dict[str, Any]) -> None:
    sandbox = Sandbox.create("minimal", persistent=True, idle_timeout=1, **options)
    try:
        began = time.monotonic()
        # Followed for longer than it may idle.
        assert sandbox.commands.run("sleep 1.4; echo done").stdout == "done\n"
        assert time.monotonic() - began > 1.3
        assert sandbox.info().status == "running"

        until(lambda: sandbox.info().status == "paused", 20)
    finally:
        sandbox.kill()
        sandbox.close()


# 16 s, most of them waiting; without a machine: tests/unit/control/test_idling.py.
@pytest.mark.heavy
def test_who_is_called_lives_on_and_who_is_not_is_paused(options: dict[str, Any]) -> None:
    sandbox = Sandbox.create("minimal", persistent=True, idle_timeout=3, **options)
    try:
        held(sandbox, "kept")
        command: CommandHandle = sandbox.commands.run("sleep 7; echo done", background=True, timeout=0)
        began = time.monotonic()
        assert command.wait().stdout == "done\n"
        # Followed for longer than it may idle.
        assert time.monotonic() - began > 6
        assert sandbox.info().status == "running"
        for _ in range(5):
            time.sleep(1)
            assert sandbox.commands.run("echo called").stdout == "called\n"
        called = time.monotonic()

        until(lambda: sandbox.info().status == "paused", 20)

        assert time.monotonic() - called > 2.5
        assert sandbox.resume().generation == 2
        assert holds(sandbox) == ("kept", "kept")
    finally:
        sandbox.kill()
        sandbox.close()


def test_who_idles_and_is_not_to_be_kept_is_ended(options: dict[str, Any]) -> None:
    with Sandbox.create("minimal", timeout=600, idle_timeout=1, **options) as sandbox:
        until(lambda: sandbox.info().status == "killed", 20)
        assert sandbox.info().end_reason == "idle"


@pytest.mark.parametrize("dialect", ["e2b", "own"])
def test_a_resume_as_a_reboot_has_the_files_and_nothing_else(
    own: LiveHome, options: dict[str, Any], dialect: str
) -> None:
    with Sandbox.create("minimal", timeout=600, **options) as sandbox:
        held(sandbox, "written")
        boot_id = sandbox.files.read("/proc/sys/kernel/random/boot_id")
        sandbox.pause()

        if dialect == "e2b":
            E2BSandbox.connect(sandbox.id, timeout=600, on_resume="reboot", **own.client_options)
        else:
            sandbox.resume(memory=False)

        assert sandbox.files.read("/home/user/held") == "written"
        with pytest.raises(NotFoundError):
            sandbox.files.read("/dev/shm/held")
        assert sandbox.files.read("/proc/sys/kernel/random/boot_id") != boot_id
        assert sandbox.commands.run("echo up").stdout == "up\n"
        assert not list((own.path / "checkpoints").glob(f"*{sandbox.id}*"))
