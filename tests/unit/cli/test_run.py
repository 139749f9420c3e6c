"""``atoll run`` and ``atoll sandbox exec``: a program there behaves as if it ran here."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.live_cloud import LiveCloud

Atoll = Callable[..., "subprocess.CompletedProcess[bytes]"]
ATOLL = [sys.executable, "-c", "from atoll.cli.main import main; main()"]


def test_output_goes_to_the_right_descriptors_and_the_code_is_the_programs(atoll: Atoll) -> None:
    done = atoll("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")

    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_code_runs_in_python_with_its_arguments(atoll: Atoll) -> None:
    done = atoll("run", "-c", "import sys; print(sys.argv[1:])", "a", "--b", "--", "c")

    assert done.stdout == b"['a', '--b', '--', 'c']\n"


def test_a_file_is_uploaded_and_run_with_its_arguments(
    atoll: Atoll, tmp_path: Path, cloud: LiveCloud
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys; print('args', sys.argv[1:])")

    done = atoll("run", str(program), "--flag", "--", "-c")

    assert (cloud.daemon.root / "program.py").read_text() == program.read_text()
    assert done.stdout == b"args ['--flag', '--', '-c']\n"


def test_input_is_passed_on_byte_for_byte(atoll: Atoll) -> None:
    data = os.urandom(1_000_000)

    assert atoll("run", "--", "cat", input=data).stdout == data


def test_output_that_is_not_text_comes_through(atoll: Atoll) -> None:
    assert atoll("run", "--", "printf", r"\377\000\033[31m").stdout == b"\xff\x00\x1b[31m"


def test_a_signal_gives_the_code_that_shells_give(atoll: Atoll) -> None:
    assert atoll("run", "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_a_program_that_takes_too_long_is_ended_and_that_is_said(atoll: Atoll) -> None:
    done = atoll("run", "--timeout", "1", "--", "sleep", "30")

    assert done.returncode == 124
    assert (
        done.stderr == b"atoll: The program was ended after 1 s.\n  \xe2\x86\x92 --timeout gives it longer.\n"
    )


@pytest.mark.parametrize(
    "args",
    [(), ("--",), ("no-such-file",), ("-e", "NOT_SET_ANYWHERE", "--", "true"),
     ("--timeout", "-1", "--", "true"), ("--timeout", "x", "--", "true"), ("--no-such-option",),
     ("--tty", "--", "true")],
)  # fmt: skip
def test_wrong_usage_is_said_and_starts_nothing(
    atoll: Atoll, cloud: LiveCloud, args: tuple[str, ...]
) -> None:
    done = atoll("run", *args)

    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert cloud.control.wishes == []


def test_variables_reach_the_sandbox(atoll: Atoll, cloud: LiveCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "there")

    atoll("run", "-e", "A=b=c", "-e", "FROM_HERE", "--no-internet", "--memory", "256", "--", "true")

    assert dict(cloud.control.wishes[0].env) == {"A": "b=c", "FROM_HERE": "there"}
    assert not cloud.control.wishes[0].egress.internet


def test_the_sandbox_is_gone_afterwards(atoll: Atoll) -> None:
    atoll("run", "--", "false")

    assert atoll("sandbox", "list", "--json").stdout.strip() == b"[]"


def test_a_reader_that_leaves_ends_the_program_quietly(cloud: LiveCloud) -> None:
    piped = subprocess.PIPE
    running = subprocess.Popen([*ATOLL, "run", "--", "yes"], stdout=piped, stderr=piped)
    assert running.stdout is not None
    running.stdout.read(10)
    running.stdout.close()

    _, words = running.communicate(timeout=30)

    assert running.returncode == 128 + signal.SIGPIPE
    assert words == b""
    assert cloud.control.rows


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_program_and_sandbox(atoll: Atoll, number: signal.Signals) -> None:
    command = [*ATOLL, "run", "--", "sh", "-c", "echo started; sleep 60"]
    piped = subprocess.PIPE
    running = subprocess.Popen(command, stdout=piped, stderr=piped, stdin=piped)
    assert running.stdout is not None
    assert running.stdout.readline() == b"started\n"

    running.send_signal(number)
    _, words = running.communicate(timeout=30)

    assert running.returncode == 128 + number
    assert words == b""
    assert atoll("sandbox", "list", "--json").stdout.strip() == b"[]"


def test_input_is_read_while_output_comes(cloud: LiveCloud) -> None:
    running = subprocess.Popen([*ATOLL, "run", "--", "cat"], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert running.stdin is not None
    assert running.stdout is not None
    for line in (b"one\n", b"two\n"):
        running.stdin.write(line)
        running.stdin.flush()
        assert running.stdout.readline() == line

    running.stdin.close()
    assert running.wait(timeout=30) == 0
    running.stdout.close()


def test_a_person_on_a_terminal_types_lines(cloud: LiveCloud) -> None:
    seen = on_terminal(["run", "--", "sh", "-c", "read name; echo hello $name"], b"ada\n")

    assert b"hello ada" in seen


def on_terminal(args: list[str], typed: bytes) -> bytes:
    """Run the command line on a terminal, type, and return what it showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(ATOLL[0], [*ATOLL, *args])
    os.write(terminal, typed)
    seen = b""
    end = time.monotonic() + 30
    while select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0]:
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            break
    os.close(terminal)
    os.waitpid(pid, 0)
    return seen


def test_exec_runs_in_a_sandbox_that_stays(atoll: Atoll) -> None:
    sandbox_id = atoll("sandbox", "create").stdout.decode().strip()

    one = atoll("sandbox", "exec", sandbox_id, "--", "sh", "-c", "cat; exit 5", input=b"in")
    other = atoll("sandbox", "exec", "-e", "A=b", sandbox_id, "sh", "-c", "echo $A")

    assert (one.stdout, one.returncode) == (b"in", 5)
    assert other.stdout == b"b\n"
    assert sandbox_id.encode() in atoll("sandbox", "list").stdout


def test_a_sandbox_that_ended_is_said_with_its_reason(atoll: Atoll) -> None:
    sandbox_id = atoll("sandbox", "create").stdout.decode().strip()
    atoll("sandbox", "kill", sandbox_id)

    again = atoll("sandbox", "kill", sandbox_id)

    assert again.returncode == 1
    assert again.stderr.decode().startswith(f"atoll: Sandbox {sandbox_id} had ended before: killed.")


def test_a_program_that_is_not_there_is_a_failure_of_its_own_kind(atoll: Atoll) -> None:
    done = atoll("run", "--", "/no/such/program")

    assert done.returncode == 127
    assert done.stderr.startswith(b"atoll: ")


def test_an_address_where_nobody_answers_is_said(atoll: Atoll, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_API_URL", "http://127.0.0.1:9")

    done: Any = atoll("run", "--", "true")

    assert done.returncode == 125
    assert b"does not answer" in done.stderr
    assert b"atoll up" in done.stderr
    assert b"Traceback" not in done.stderr
