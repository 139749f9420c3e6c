"""The command line on a real home."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.home import ATOLL, Atoll, LiveHome


@pytest.fixture(scope="module")
def sandbox_id(atoll: Atoll) -> Iterator[str]:
    made = atoll("sandbox", "create", "-t", "minimal", "--timeout", "900").stdout.decode().strip()
    yield made
    atoll("sandbox", "kill", made)


def running(atoll: Atoll) -> set[str]:
    return {one["id"] for one in json.loads(atoll("sandbox", "list", "-m", "atoll=run", "--json").stdout)}


def test_a_sandbox_is_paused_and_resumed(atoll: Atoll, sandbox_id: str) -> None:
    paused = atoll("sandbox", "pause", sandbox_id)
    listed = atoll("sandbox", "list", "--status", "paused")
    again = atoll("sandbox", "pause", sandbox_id)
    resumed = atoll("sandbox", "resume", sandbox_id, "--timeout", "900")

    assert paused.stdout.decode().strip() == resumed.stdout.decode().strip() == sandbox_id
    assert sandbox_id in listed.stdout.decode()
    assert again.returncode != 0
    assert "paused, not running" in again.stderr.decode()


def test_a_program_runs_as_if_it_ran_here(atoll: Atoll, tmp_path: Path) -> None:
    program = tmp_path / "sum.py"
    program.write_text(
        "import sys; print(sum(map(int, sys.stdin)), sys.argv[1:]); print('e', file=sys.stderr); sys.exit(4)"
    )

    done = atoll("run", "-t", "minimal", str(program), "--flag", data=b"1\n2\n3\n")

    assert (done.stdout, done.stderr, done.returncode) == (b"6 ['--flag']\n", b"e\n", 4)
    assert running(atoll) == set()


def test_bytes_go_through_unchanged(atoll: Atoll) -> None:
    data = os.urandom(3_000_000)

    assert atoll("run", "-t", "minimal", "--", "cat", data=data).stdout == data


def test_codes_say_how_it_ended(atoll: Atoll) -> None:
    assert atoll("run", "-t", "minimal", "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert atoll("run", "-t", "minimal", "--timeout", "1", "--", "sleep", "30").returncode == 124
    assert atoll("run", "-t", "no-such-template", "--", "true").returncode == 125
    assert atoll("run", "-t", "minimal", "--", "no-such-program").returncode == 127
    assert atoll("run", "-t", "minimal", "--", "/no/such/program").returncode == 127
    assert atoll("run", "-t", "minimal", "--", "/etc/passwd").returncode == 126
    assert atoll("run", "-t", "minimal", "--", "/etc").returncode == 126


def test_without_internet_there_is_none(atoll: Atoll) -> None:
    code = "import socket; socket.create_connection(('1.1.1.1', 53), timeout=3)"

    assert atoll("run", "-t", "minimal", "--no-internet", "-c", code).returncode == 1


def test_ctrl_c_ends_program_and_sandbox(atoll: Atoll, variables: dict[str, str]) -> None:
    command = [ATOLL, "run", "-t", "minimal", "--", "sh", "-c", "trap '' INT TERM; echo started; sleep 100"]
    piped = subprocess.PIPE
    program = subprocess.Popen(command, stdout=piped, stderr=piped, stdin=piped, env=variables)
    assert program.stdout is not None
    assert program.stdout.readline() == b"started\n"

    program.send_signal(signal.SIGINT)
    _, words = program.communicate(timeout=30)

    assert (program.returncode, words) == (130, b"")
    assert running(atoll) == set()


def test_a_terminal_inside_is_as_large_as_ours_and_follows_it(variables: dict[str, str]) -> None:
    inside = "tty; stty size; trap 'stty size; exit' WINCH; while :; do sleep 0.1; done"
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(variables)
        os.environ.update({"COLUMNS": "", "LINES": ""})
        os.execv(ATOLL, [str(ATOLL), "run", "-t", "minimal", "--tty", "--", "sh", "-c", inside])
    import fcntl
    import struct
    import termios

    def resize(rows: int, cols: int) -> None:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    resize(33, 99)
    seen, end, grown = b"", time.monotonic() + 60, False
    while time.monotonic() < end and select.select([terminal], [], [], 30)[0]:
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            break
        if b"33 99" in seen and not grown:
            grown = True
            resize(44, 111)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)

    assert b"/dev/pts/" in seen
    assert b"44 111" in seen
    assert os.waitstatus_to_exitcode(status) == 0


def test_exec_ls_and_cp(atoll: Atoll, sandbox_id: str, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "program").write_text("#!/bin/sh\necho ran\n")
    (source / "program").chmod(0o755)
    (source / "sub" / "data").write_bytes(os.urandom(300_000))

    atoll("cp", str(source), f"{sandbox_id}:")
    ran = atoll("sandbox", "exec", sandbox_id, "--", "/home/user/tree/program")
    listed = json.loads(atoll("ls", "--json", f"{sandbox_id}:tree").stdout)
    atoll("cp", f"{sandbox_id}:tree", str(tmp_path / "back"))

    assert ran.stdout == b"ran\n"
    assert {entry["name"]: entry["type"] for entry in listed} == {"program": "file", "sub": "directory"}
    assert (tmp_path / "back" / "sub" / "data").read_bytes() == (source / "sub" / "data").read_bytes()
    assert (tmp_path / "back" / "program").stat().st_mode & 0o111


def test_names_from_inside_cannot_play_with_the_terminal(atoll: Atoll, sandbox_id: str) -> None:
    atoll("sandbox", "exec", sandbox_id, "--", "python3", "-c", r"open('/tmp/a\x1b[2J\rb', 'w')")

    shown = atoll("ls", f"{sandbox_id}:/tmp").stdout + atoll("ls", "-l", f"{sandbox_id}:/tmp").stdout

    assert b"\x1b" not in shown
    assert b"\\x1b" in shown


def test_doctor_finds_nothing_that_fails(home: LiveHome) -> None:
    done = home.atoll("doctor", "--home", str(home.path), "--json")

    checks = json.loads(done.stdout)
    assert [check for check in checks if check["status"] == "fail"] == []
    assert done.returncode == 0
    assert {"kernel", "cgroups", "network", "runsc", "disk", "memory", "kvm", "container"} <= {
        c["name"] for c in checks
    }
    # It is tried, not only found.
    (runsc,) = [check["message"] for check in checks if check["name"] == "runsc"]
    assert runsc.endswith("runs a sandbox with a network")


def test_up_again_says_that_it_is_up(home: LiveHome) -> None:
    again = home.atoll("up", "--home", str(home.path), "--listen", home.listen, "--detach")
    elsewhere = home.atoll("up", "--home", str(home.path), "--listen", "127.0.0.1:1", "--detach")

    assert again.returncode == 0
    assert "ATOLL_API_KEY" in again.stdout
    assert elsewhere.returncode == 1
    assert "up already" in elsewhere.stderr


def test_logs_metrics_and_kills_for_memory_are_shown_also_after_the_end(atoll: Atoll) -> None:
    sandbox_id = atoll("sandbox", "create").stdout.decode().strip()
    greedy = atoll("sandbox", "exec", sandbox_id, "--", "sh", "-c", "python3 -c \"b'x' * (3 << 30)\"; exit 5")
    atoll("sandbox", "kill", sandbox_id)

    text = atoll("sandbox", "logs", sandbox_id).stdout.decode()
    last = json.loads(atoll("sandbox", "logs", sandbox_id, "--last", "1", "--json").stdout)
    warned = atoll("sandbox", "logs", sandbox_id, "--level", "warn").stdout.decode().splitlines()
    followed = atoll("sandbox", "logs", sandbox_id, "--follow", "--json").stdout.decode().splitlines()
    metrics = atoll("sandbox", "metrics", sandbox_id)
    info = atoll("sandbox", "info", sandbox_id).stdout.decode()
    unknown = atoll("sandbox", "logs", "i" + "0" * 20)

    assert greedy.returncode == 5
    assert "sandbox created" in text
    assert "exit_code=5" in text
    assert last[0]["fields"] == {"logger": "sandbox", "reason": "killed"}
    assert warned
    assert all("out of memory" in line and "command=python3" in line for line in warned)
    assert json.loads(followed[-1])["message"] == "sandbox ended"
    assert metrics.returncode == 0
    assert "killed     python3, pid" in info
    assert unknown.returncode == 1
