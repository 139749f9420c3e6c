"""Our own SDK works in real sandboxes."""

import asyncio
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.home import LiveHome

from atoll import (
    AsyncSandbox,
    CommandFailedError,
    CommandHandle,
    DeadlineExceededError,
    FailedPreconditionError,
    FileChange,
    FileType,
    InvalidArgumentError,
    NotFoundError,
    Sandbox,
    Team,
    UnauthenticatedError,
    UnavailableError,
    Volume,
)


@pytest.fixture(scope="session")
def options(home: LiveHome) -> dict[str, Any]:
    return home.options


@pytest.fixture(scope="module")
def box(options: dict[str, Any]) -> Iterator[Sandbox]:
    with Sandbox.create("minimal", timeout=1200, **options) as live:
        yield live


def test_a_command_runs_as_user_in_its_home(box: Sandbox) -> None:
    result = box.commands.run("id -un; pwd; echo err >&2; exit 3")

    assert (result.stdout, result.stderr, result.exit_code) == ("user\n/home/user\n", "err\n", 3)


def test_a_program_without_a_shell_finds_its_way(box: Sandbox) -> None:
    assert box.commands.run(["python3", "-c", "print(6 * 7)"], check=True).stdout == "42\n"
    with pytest.raises(CommandFailedError):
        box.commands.run(["python3", "-c", "raise SystemExit(2)"], check=True)


def test_who_and_where_can_be_said(box: Sandbox) -> None:
    result = box.commands.run("id -u; pwd; echo $A", user="root", cwd="/tmp", env={"A": "b c"})

    assert result.stdout == "0\n/tmp\nb c\n"
    with pytest.raises(InvalidArgumentError, match="does not exist"):
        box.commands.run("true", cwd="/no/such")


def test_a_signal_is_in_the_code(box: Sandbox) -> None:
    assert box.commands.run(["sh", "-c", "kill -9 $$"]).exit_code == 137
    assert box.commands.run(["sh", "-c", "kill -11 $$"]).exit_code == 139


def test_input_and_output_stream_at_once(box: Sandbox) -> None:
    data = os.urandom(8 << 20)

    result = box.commands.run(["cat"], stdin=data)

    assert hashlib.sha256(result.stdout_bytes).digest() == hashlib.sha256(data).digest()


def test_a_command_that_reads_a_little_of_much_input_ends_well(box: Sandbox) -> None:
    result = box.commands.run(["head", "-c", "3"], stdin=b"abc" * 4_000_000)

    assert (result.stdout, result.exit_code) == ("abc", 0)


def test_output_comes_as_it_is_written(box: Sandbox) -> None:
    came: list[float] = []

    box.commands.run(
        "for i in 1 2 3; do echo $i; sleep 0.3; done", on_stdout=lambda _: came.append(time.monotonic())
    )

    assert came[-1] - came[0] > 0.4


def test_a_timeout_ends_the_command_and_all_it_started(box: Sandbox) -> None:
    with pytest.raises(DeadlineExceededError):
        box.commands.run("setsid sleep 4811 & sleep 4812", timeout=1)

    assert box.commands.run("pgrep -fx 'sleep 481[12]' || echo none").stdout == "none\n"


def test_a_background_command_is_fed_listed_attached_to_and_killed(box: Sandbox) -> None:
    handle = box.commands.run("cat; sleep 60", background=True, stdin=True)
    attached = box.commands.connect(handle.pid)

    handle.send_stdin("hello\n")
    first = next(iter(attached))
    listed = {process.pid for process in box.commands.list()}
    killed = handle.kill()
    ended = handle.wait()

    assert first.data == b"hello\n"
    assert handle.pid in listed
    assert killed
    assert ended.exit_code == 137
    assert not handle.kill()


def test_a_terminal_is_one(box: Sandbox) -> None:
    terminal = box.pty.create(100, 40, cmd=["sh", "-c", "tty; stty size; read x; stty size; echo got $x"])
    seen, typed = b"", False
    for piece in terminal:
        seen += piece.data
        if b"40 100" in seen and not typed:
            typed = True
            box.pty.resize(terminal.pid, 80, 24)
            terminal.send_stdin("word\n")

    assert b"/dev/pts/" in seen
    assert b"24 80" in seen
    assert b"got word" in seen


def test_files_stream_both_ways(box: Sandbox) -> None:
    data = os.urandom(1 << 20)

    info = box.files.write("/tmp/large", (data for _ in range(32)))
    back = hashlib.sha256()
    with box.files.read("/tmp/large", format="stream") as stream:
        for piece in stream:
            back.update(piece)

    assert info.size == stream.size == 32 << 20
    assert back.digest() == hashlib.sha256(data * 32).digest()


def test_directories_are_listed_made_renamed_and_removed(box: Sandbox) -> None:
    assert box.files.make_dir("d/sub")
    assert not box.files.make_dir("d/sub")
    box.files.write("d/file", "123")
    box.files.rename("d/file", "d/other")

    listed = {entry.name: (entry.type, entry.owner) for entry in box.files.list("d")}
    box.files.remove("d")

    assert listed == {"sub": (FileType.DIRECTORY, "user"), "other": (FileType.FILE, "user")}
    assert not box.files.exists("d")
    with pytest.raises(NotFoundError):
        box.files.read("d/other")
    with pytest.raises(NotFoundError):
        box.files.list("d")


def test_a_watch_tells_what_happens(box: Sandbox) -> None:
    box.files.make_dir("w")

    with box.files.watch("w", timeout=30) as watch:
        box.files.write("w/new", "1")
        events = iter(watch)
        seen = next(events)

    assert (seen.name, seen.change) == ("new", FileChange.CREATE)


def test_a_port_is_reached_under_its_host_name(box: Sandbox) -> None:
    server = box.commands.run(["python3", "-m", "http.server", "8099", "-b", "127.0.0.1"], background=True)
    host = box.host(8099)
    door = ("127.0.0.1", int(host.rsplit(":", 1)[1]))
    try:
        limit = time.monotonic() + 20
        answer = b""
        while b" 200 " not in answer and time.monotonic() < limit:
            with socket.create_connection(door, timeout=10) as connection:
                connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = connection.recv(65536)
    finally:
        server.kill()

    assert b" 200 " in answer.splitlines()[0]


def test_a_sandbox_that_is_killed_ends_what_is_read(options: dict[str, Any]) -> None:
    victim = Sandbox.create("minimal", **options)
    handle = victim.commands.run("sleep 100", background=True)
    killer = threading.Timer(0.5, victim.kill)
    killer.start()

    with pytest.raises((UnavailableError, NotFoundError)):
        handle.wait()
    killer.join()
    with pytest.raises(NotFoundError):
        victim.commands.run("true")

    assert victim.info().end_reason == "killed"
    victim.close()


@pytest.mark.parametrize("memory", [True, False])
def test_a_paused_sandbox_goes_on_when_it_is_resumed(options: dict[str, Any], memory: bool) -> None:
    sandbox = Sandbox.create("minimal", timeout=600, **options)
    sandbox.files.write("/dev/shm/text", "held")
    sandbox.files.write("/home/user/text", "written")

    assert sandbox.pause(memory=memory).status == "paused"
    with pytest.raises(FailedPreconditionError):
        sandbox.pause()
    assert sandbox.id in {one.id for one in Sandbox.list(status="paused", **options)}
    assert sandbox.resume(timeout=900).status == "running"

    assert sandbox.files.read("/home/user/text") == "written"
    assert sandbox.files.exists("/dev/shm/text") is memory
    sandbox.pause()
    again = Sandbox.connect(sandbox.id, **options)
    assert again.commands.run("echo up").stdout == "up\n"
    assert again.kill()
    with pytest.raises(NotFoundError):
        sandbox.resume()
    for one in (again, sandbox):
        one.close()


def test_the_deadline_ends_it_and_says_so(options: dict[str, Any]) -> None:
    brief = Sandbox.create("minimal", timeout=60, **options)

    brief.set_timeout(1)
    limit = time.monotonic() + 20
    while brief.info().ended_at is None and time.monotonic() < limit:
        time.sleep(0.1)

    assert brief.info().end_reason == "deadline"
    brief.close()


def test_metadata_finds_it_and_usage_is_told(options: dict[str, Any]) -> None:
    with Sandbox.create("minimal", metadata={"job": "unique-4711"}, memory_mb=256, **options) as box:
        listed = Sandbox.list(metadata={"job": "unique-4711"}, **options)
        usage = box.usage()
        total = int(box.commands.run("grep MemTotal /proc/meminfo").stdout.split()[1])

    assert [one.id for one in listed] == [box.id]
    assert listed[0].limits.memory_bytes == 256 << 20
    assert usage.memory_bytes > 0
    assert total <= 256 * 1024


def test_a_wrong_key_opens_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(UnauthenticatedError):
        Sandbox.list(**{**options, "api_key": "e2b_" + "0" * 40})


def test_an_unknown_template_is_not_found(options: dict[str, Any]) -> None:
    with pytest.raises(NotFoundError, match="no-such-template"):
        Sandbox.create("no-such-template", **options)


async def test_many_at_once_with_asyncio(options: dict[str, Any]) -> None:
    async def one(number: int) -> str:
        async with await AsyncSandbox.create("minimal", **options) as box:
            return (await box.commands.run(f"echo {number}")).stdout

    assert await asyncio.gather(*(one(n) for n in range(4))) == [f"{n}\n" for n in range(4)]


async def test_cancelling_a_command_ends_it(options: dict[str, Any]) -> None:
    async with await AsyncSandbox.create("minimal", **options) as box:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await box.commands.run("sleep 4911", timeout=None)

        assert (await box.commands.run("pgrep -fx 'sleep 4911' || echo none")).stdout == "none\n"


def test_who_comes_back_sees_the_past_only_when_it_is_asked_for(box: Sandbox) -> None:
    first = box.commands.run("seq 1 1000; read line; seq 1001 2000", background=True, stdin=True)
    seen = b""
    for piece in first:
        seen += piece.data
        if b"\n1000\n" in seen:
            break
    first.disconnect()

    plain = box.commands.connect(first.pid)
    asked = box.commands.connect(first.pid, recent=True)
    asked.send_stdin("\n")
    whole, rest = asked.wait(), plain.wait()
    again = box.commands.connect(first.pid, recent=True).wait()

    assert whole.stdout.split() == [str(number) for number in range(1, 2001)]
    assert rest.stdout.split() == [str(number) for number in range(1001, 2001)]
    assert again == whole


def test_nothing_is_missing_or_twice_for_those_who_come_back_while_it_prints(box: Sandbox) -> None:
    # 15 lines of 100 bytes each millisecond or so, for some seconds; each says which one it is.
    script = "i=0; while [ $i -lt 3000 ]; do printf '%099d\\n' $i; i=$((i+1)); done; read line"
    one = box.commands.run(script, background=True, stdin=True)
    handles = [box.commands.connect(one.pid, recent=True) for _ in range(12)]
    until = b"%099d\n" % 2999

    def collect(handle: CommandHandle) -> list[int]:
        seen = b""
        for piece in handle:
            seen += piece.data
            if seen.endswith(until):
                break
        handle.disconnect()
        # The first line may have begun before what is kept.
        return [int(line) for line in seen.split(b"\n")[1:-1]]

    found = [collect(handle) for handle in handles]
    one.kill()

    for lines in found:
        assert lines == list(range(lines[0], 3000))


def test_a_team_goes_by_force_with_all_that_runs_and_is_kept_for_it(options: dict[str, Any]) -> None:
    Team.create("short-lived", **options)
    member = {**options, "api_key": Team.create_key("k", team="short-lived", **options).key}
    volume = Volume.create("notes", **member)
    volume.close()
    running = Sandbox.create("minimal", timeout=300, volumes={"/data": volume}, **member)
    paused = Sandbox.create("minimal", timeout=300, **member)
    try:
        running.snapshot("kept")
        paused.pause()
        with pytest.raises(FailedPreconditionError, match="2 sandboxes, 1 volume and 1 snapshot"):
            Team.delete("short-lived", **options)
        assert running.commands.run("touch /data/here; echo lives").stdout == "lives\n"

        Team.delete("short-lived", force=True, **options)

        assert "short-lived" not in [team.name for team in Team.list(**options)]
        with pytest.raises(UnauthenticatedError):
            running.info()
        with pytest.raises((NotFoundError, UnavailableError)):
            running.commands.run("true")
    finally:
        running.close()
        paused.close()
    # Nothing of it is in the way of another of the same name.
    Team.create("short-lived", **options)
    Team.delete("short-lived", **options)
