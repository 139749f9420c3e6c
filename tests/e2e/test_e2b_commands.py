"""The released E2B client runs commands in real sandboxes."""

import hashlib
import threading
import time

import pytest
from e2b import CommandExitException, InvalidArgumentException, Sandbox, TimeoutException


def test_a_command_returns_its_output_and_exit_code(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("echo out; echo err >&2")

    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)


def test_a_failing_command_raises_with_its_exit_code(sandbox: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("echo before; exit 3")

    assert (caught.value.exit_code, caught.value.stdout) == (3, "before\n")


def test_commands_run_as_user_in_its_home(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("id -un; pwd; echo $HOME $USER")

    assert result.stdout.split() == ["user", "/home/user", "/home/user", "user"]


def test_commands_run_as_root_when_asked(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("id -u; pwd", user="root").stdout.split() == ["0", "/root"]


def test_an_unknown_user_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(Exception, match="invalid username: 'nobody-here'"):
        sandbox.commands.run("true", user="nobody-here")


def test_env_and_cwd_reach_the_command(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("echo $A; pwd", envs={"A": "b c"}, cwd="/tmp")

    assert result.stdout == "b c\n/tmp\n"


def test_a_missing_cwd_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgumentException, match="does not exist"):
        sandbox.commands.run("true", cwd="/no/such/dir")


def test_output_streams_while_the_command_runs(sandbox: Sandbox) -> None:
    came: list[tuple[float, str]] = []

    sandbox.commands.run(
        "for i in 1 2 3; do echo $i; sleep 0.4; done",
        on_stdout=lambda text: came.append((time.monotonic(), text)),
    )

    assert "".join(text for _, text in came) == "1\n2\n3\n"
    # The three lines were written 0.8 s apart; had they been held back, they would come together.
    assert came[-1][0] - came[0][0] > 0.5


def test_a_background_command_can_be_listed_fed_and_waited_for(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("cat; echo end", background=True, stdin=True)

    assert handle.pid in {process.pid for process in sandbox.commands.list()}
    sandbox.commands.send_stdin(handle.pid, "hello\n")
    sandbox.commands.close_stdin(handle.pid)
    result = handle.wait()

    assert result.stdout == "hello\nend\n"
    assert handle.pid not in {process.pid for process in sandbox.commands.list()}


def test_input_can_be_streamed(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sha256sum", background=True, stdin=True)

    sandbox.commands.stream_input(handle.pid, (b"x" * 1000 for _ in range(1000)))
    sandbox.commands.close_stdin(handle.pid)

    assert handle.wait().stdout.split()[0] == hashlib.sha256(b"x" * 1_000_000).hexdigest()


def test_connect_attaches_to_a_running_command(sandbox: Sandbox) -> None:
    first = sandbox.commands.run("read line; echo got $line", background=True, stdin=True)

    second = sandbox.commands.connect(first.pid)
    sandbox.commands.send_stdin(first.pid, "word\n")

    assert second.wait().stdout == "got word\n"


def test_a_timeout_ends_the_command_with_all_its_descendants(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutException):
        sandbox.commands.run("setsid sleep 4711 & sleep 4712", timeout=1)

    assert sandbox.commands.run("pgrep -fx 'sleep 471[12]' || echo none").stdout == "none\n"


def test_kill_ends_the_command_with_all_its_descendants(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("setsid sleep 4721 & trap '' TERM; sleep 4722", background=True)
    sandbox.commands.run("until pgrep -fx 'sleep 4722'; do sleep 0.05; done")

    assert sandbox.commands.kill(handle.pid)
    with pytest.raises(CommandExitException):
        handle.wait()

    assert sandbox.commands.run("pgrep -fx 'sleep 472[12]' || echo none").stdout == "none\n"
    assert not sandbox.commands.kill(handle.pid)


def test_killing_a_command_that_has_ended_does_not_reach_the_next(sandbox: Sandbox) -> None:
    """The next command gets the control group of one that left it empty."""
    ended = sandbox.commands.run("true", background=True)
    ended.wait()
    nexts = [sandbox.commands.run("sleep 60", background=True) for _ in range(3)]

    assert not sandbox.commands.kill(ended.pid)

    assert {command.pid for command in nexts} <= {process.pid for process in sandbox.commands.list()}
    assert all(sandbox.commands.kill(command.pid) for command in nexts)


def test_what_a_command_left_running_lives_on(sandbox: Sandbox) -> None:
    sandbox.commands.run("sleep 4731 >/dev/null 2>&1 &")

    assert sandbox.commands.run("pgrep -fx 'sleep 4731'").stdout.strip().isdigit()


def test_a_daemon_that_holds_the_output_does_not_hold_the_end(sandbox: Sandbox) -> None:
    started = time.monotonic()

    result = sandbox.commands.run("sleep 30 & echo done")

    assert result.stdout == "done\n"
    assert time.monotonic() - started < 10


def test_a_terminal_speaks_and_resizes(sandbox: Sandbox) -> None:
    from e2b.sandbox.commands.command_handle import PtySize

    seen = bytearray()
    first_size = threading.Event()

    def hear(data: bytes) -> None:
        seen.extend(data)
        if b"24 80" in seen:
            first_size.set()

    terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
    reader = threading.Thread(target=lambda: terminal.wait(on_pty=hear))
    reader.start()
    sandbox.pty.send_stdin(terminal.pid, b"stty size\n")
    assert first_size.wait(timeout=20)
    sandbox.pty.resize(terminal.pid, PtySize(rows=40, cols=100))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; exit\n")
    reader.join(timeout=20)

    assert not reader.is_alive()
    assert b"40 100" in seen


def test_sudo_works_and_is_quick_without_network(client_options: dict[str, str]) -> None:
    sandbox = Sandbox.create("base", timeout=120, allow_internet_access=False, **client_options)
    try:
        sandbox.commands.run("sudo true")
        took = sandbox.commands.run(
            "s=$(date +%s%N); sudo -n id -u; e=$(date +%s%N); echo $(( (e - s) / 1000000 ))"
        ).stdout.split()
    finally:
        sandbox.kill()

    assert took[0] == "0"
    # Without its host name in /etc/hosts sudo waits 20 s; 100 ms is what it takes on a quiet machine.
    assert int(took[1]) < 1000
