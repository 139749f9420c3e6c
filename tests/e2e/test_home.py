"""Homes come up, go down and leave nothing, whatever happened in between."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.home import ATOLL, LiveHome, free_address, new_directory
from support.leavings import HOST_SETTINGS, left_of

from atoll import Sandbox


@pytest.fixture
def bare() -> Iterator[LiveHome]:
    """A home that is not up yet."""
    path = new_directory()
    home = LiveHome(path=path, listen=free_address())
    try:
        yield home
    finally:
        # Another `atoll down` takes as long as the first.
        if not (path / "home.json").exists() or any(left_of(home).values()):
            home.down()
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Life:
    """
    What was seen of a home that came up, went down and came up again, and is up.

    Attributes:
        up: what was on the machine while it was up.
        down: what was there once it was down.
        has_key: whether its key was there then.
        settings: the host's, before it came up and once it was down.
        exports: what `atoll env` printed the first time that it was up, and the second.
    """

    home: LiveHome
    up: dict[str, list[str]]
    down: dict[str, list[str]]
    has_key: bool
    settings: tuple[dict[str, str], dict[str, str]]
    others: bool
    exports: tuple[dict[str, str], dict[str, str]]


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    """Live it once for all that look, with machines that wait: each start and each end takes seconds."""
    path = new_directory(settings="")
    home = LiveHome(path=path, listen=free_address())
    try:
        others = bool(json.loads(HOST_SETTINGS.read_text())) if HOST_SETTINGS.exists() else False
        before = host_settings()
        home.start()
        sandbox_in(home).close()
        up, first = left_of(home), home.exports_now()
        home.down()
        down, after, has_key = left_of(home), host_settings(), (path / "key").exists()
        with_a_login_shells_limit(home.start)
        yield Life(
            home=home, up=up, down=down, has_key=has_key, settings=(before, after), others=others,
            exports=(first, home.exports_now()),
        )  # fmt: skip
    finally:
        home.down()
        shutil.rmtree(path, ignore_errors=True)


def host_settings() -> dict[str, str]:
    names = ("vm/max_map_count", "net/ipv4/ip_forward")
    return {name: (Path("/proc/sys") / name).read_text() for name in names}


def with_a_login_shells_limit(act: Callable[[], None]) -> None:
    """Do it with as many open files as a shell allows."""
    ours, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        act()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ours, hard))


def sandbox_in(home: LiveHome) -> Sandbox:
    exports = home.exports
    return Sandbox.create("minimal", api_url=exports["ATOLL_API_URL"], api_key=exports["ATOLL_API_KEY"])


def servers(home: LiveHome) -> list[int]:
    """Find the processes that are, or will be, the server of a home."""
    lines = {process.pid: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    return [pid for pid, words in lines.items() if "atoll.server.main" in words and str(home.path) in words]


def foreground(home: LiveHome) -> "subprocess.Popen[str]":
    """Start ``atoll up`` in the foreground and wait for its lines."""
    command = [ATOLL, "up", "--home", str(home.path), "--listen", home.listen]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **home.env}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "E2B_API_KEY" in line:
            return process
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_down_leaves_files_only(life: Life) -> None:
    assert all(life.up[name] for name in ("processes", "namespaces", "links", "cgroups", "tables", "ranges"))
    assert life.down == {name: [] for name in life.down}
    assert life.has_key


def test_an_interrupted_down_says_how_to_go_on(bare: LiveHome) -> None:
    bare.start()
    sandbox_in(bare).close()
    down = subprocess.Popen(
        [ATOLL, "down", "--home", str(bare.path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **bare.env},
    )
    assert down.stderr is not None
    assert "ending everything" in down.stderr.readline()
    down.send_signal(signal.SIGINT)
    said = down.communicate(timeout=60)[1]

    bare.down()

    assert down.returncode == 130
    assert f"`atoll down --home {bare.path}` ends the rest" in said
    assert "Traceback" not in said
    assert left_of(bare) == {name: [] for name in left_of(bare)}


def test_of_a_server_that_was_killed_doctor_tells_and_down_leaves_nothing(bare: LiveHome) -> None:
    def server() -> dict[str, str]:
        checks = json.loads(bare.atoll("doctor", "--home", str(bare.path), "--json").stdout)
        return next(check for check in checks if check["name"] == "server")

    before = server()
    bare.start()
    sandbox_in(bare).close()
    running = server()
    os.kill(bare.server_pid(), signal.SIGKILL)
    ended = server()

    bare.down()

    assert (before["status"], "no home" in before["message"]) == ("ok", True)
    assert (running["status"], running["message"]) == ("ok", f"up at http://{bare.listen}")
    assert (ended["status"], ended["resolution"]) == ("warn", f"sudo atoll up --home {bare.path}")
    assert left_of(bare) == {name: [] for name in left_of(bare)}


def test_down_leaves_nothing_after_server_and_edge_were_killed(bare: LiveHome) -> None:
    bare.start()
    sandbox_in(bare).close()
    server, edge = bare.server_pid(), bare.edge_pid()
    os.kill(server, signal.SIGKILL)
    os.kill(edge, signal.SIGKILL)

    bare.down()
    bare.down()

    assert left_of(bare) == {name: [] for name in left_of(bare)}


def test_host_settings_are_as_before(life: Life) -> None:
    before, after = life.settings

    assert after == before or life.others


def test_the_same_home_comes_up_again_with_the_same_key(life: Life) -> None:
    first, second = life.exports

    assert second == first


def test_two_homes_live_side_by_side(home: LiveHome, bare: LiveHome) -> None:
    bare.start()
    mine = sandbox_in(bare)
    theirs = sandbox_in(home)
    try:
        assert mine.commands.run("echo mine").stdout == "mine\n"
        assert theirs.commands.run("echo theirs").stdout == "theirs\n"
        mine.close()
        bare.down()

        assert theirs.commands.run("echo still").stdout == "still\n"
    finally:
        theirs.kill()
        theirs.close()


def test_ctrl_c_takes_everything_down(bare: LiveHome) -> None:
    process = foreground(bare)
    sandbox_in(bare).close()

    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)

    assert process.returncode == 0, words
    assert left_of(bare) == {name: [] for name in left_of(bare)}


def test_sigterm_ends_the_server_only_and_the_next_one_takes_over(bare: LiveHome) -> None:
    process = foreground(bare)
    sandbox = sandbox_in(bare)
    handle = sandbox.commands.run("for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done", background=True)

    process.terminate()
    _, words = process.communicate(timeout=120)
    output = handle.wait().stdout
    bare.start()

    assert process.returncode == 0, words
    assert output == "1\n2\n3\n4\n5\n6\n"
    assert sandbox.commands.run("echo after").stdout == "after\n"
    sandbox.close()


def test_a_killed_up_leaves_no_server_behind_unseen(bare: LiveHome) -> None:
    process = foreground(bare)
    server = psutil.Process(bare.server_pid())

    process.kill()
    process.communicate(timeout=60)

    assert psutil.wait_procs([server], timeout=60)[1] == []


def test_down_ends_a_server_that_is_only_starting(bare: LiveHome) -> None:
    command = [ATOLL, "up", "--home", str(bare.path), "--listen", bare.listen, "--detach"]
    up = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **bare.env}
    )
    # As early as can be: the server's process is there, and knows nothing of its home yet.
    while not servers(bare):
        time.sleep(0.005)
    up.kill()
    up.wait()

    bare.down()

    assert left_of(bare) == {name: [] for name in left_of(bare)}


def test_a_login_shells_limit_of_open_files_is_not_the_servers(life: Life) -> None:
    """A server holds some descriptors for each sandbox; a shell allows 1,024 for all."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert resource.prlimit(life.home.server_pid(), resource.RLIMIT_NOFILE)[0] == min(hard, 65536)


def test_a_port_that_is_taken_is_said(bare: LiveHome, home: LiveHome) -> None:
    started = time.monotonic()

    done = bare.atoll("up", "--home", str(bare.path), "--listen", home.listen, "--detach")

    assert done.returncode == 1
    assert f"{home.listen} is in use by another program" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 60


def test_env_is_for_a_shell_to_evaluate(home: LiveHome) -> None:
    script = f'eval "$({ATOLL} env --home {home.path})"; echo $E2B_API_URL $ATOLL_API_URL'

    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)

    assert done.stdout == f"http://{home.listen} http://{home.listen}\n"
