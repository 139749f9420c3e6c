"""
Code that misbehaves, in real sandboxes.

Each time a neighbour must go on as if nothing had happened,
and the sandbox itself lives on, unless its root attacked the sandbox itself.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from e2b import CommandExitException, Sandbox, TimeoutException

MEMORY_HOG = "b = []\nwhile True: b.append(b'x' * (16 << 20))"


@pytest.fixture(scope="module")
def neighbour(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    sandbox = Sandbox.create("minimal", timeout=3000, **client_options)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def victim(client_options: dict[str, Any], neighbour: Sandbox) -> Iterator[Sandbox]:
    """Give a sandbox to misbehave in; afterwards the neighbour must answer as before."""
    before = neighbour.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    sandbox = Sandbox.create("base", timeout=600, **client_options)
    try:
        yield sandbox
        assert neighbour.commands.run("cat /proc/sys/kernel/random/boot_id").stdout == before
    finally:
        sandbox.kill()


def lives(sandbox: Sandbox) -> bool:
    return sandbox.commands.run("echo alive").stdout == "alive\n"


def test_a_fork_bomb_is_held(victim: Sandbox) -> None:
    with pytest.raises((TimeoutException, CommandExitException)):
        victim.commands.run("bomb() { bomb | bomb & }; bomb; sleep 100", timeout=5)

    assert lives(victim)


def test_one_greedy_process_is_killed_and_said_to_be(victim: Sandbox) -> None:
    victim.files.write("/tmp/hog.py", MEMORY_HOG)

    with pytest.raises(CommandExitException) as caught:
        victim.commands.run("exec python3 /tmp/hog.py", timeout=120)

    assert "memory" in (caught.value.error or "")
    assert lives(victim)


def test_ten_greedy_processes_at_once_are_killed(victim: Sandbox) -> None:
    victim.files.write("/tmp/hog.py", MEMORY_HOG)

    victim.commands.run("for i in 1 2 3 4 5 6 7 8 9 10; do python3 /tmp/hog.py & done; wait", timeout=250)

    assert lives(victim)


@pytest.mark.parametrize(
    "place", ["/dev/shm/fill", "/dev/fill", "/fill", pytest.param("/tmp/fill", marks=pytest.mark.heavy)]
)
def test_filling_a_filesystem_is_bounded(victim: Sandbox, place: str) -> None:
    with pytest.raises(CommandExitException):
        victim.commands.run(f"dd if=/dev/zero of={place} bs=1M", user="root", timeout=280)
    victim.commands.run(f"rm -f {place}", user="root")

    assert lives(victim)


@pytest.mark.heavy
def test_a_hundred_thousand_empty_files_do_not_stop_it(victim: Sandbox) -> None:
    made = victim.commands.run(
        "python3 -c \"import os\nos.mkdir('/tmp/many')\n"
        "for n in range(100_000): open(f'/tmp/many/{n}', 'w').close()\" ; ls /tmp/many | wc -l",
        timeout=280,
    )

    assert int(made.stdout) > 0
    assert lives(victim)


def test_root_who_kills_the_first_process_ends_his_sandbox_only(
    victim: Sandbox, client_options: dict[str, Any]
) -> None:
    began = time.monotonic()
    with pytest.raises(Exception) as caught:  # noqa: PT011  whichever way the stream is cut
        victim.commands.run("kill -9 1; sleep 60", user="root", timeout=50)
    assert not isinstance(caught.value, CommandExitException)
    assert time.monotonic() - began < 20

    limit = time.monotonic() + 10
    while victim.is_running() and time.monotonic() < limit:
        time.sleep(0.1)
    assert not victim.is_running()


def test_a_command_that_ignores_sigterm_is_killed(victim: Sandbox) -> None:
    handle = victim.commands.run("trap '' TERM INT HUP; echo ready; sleep 1000", background=True)

    assert victim.commands.kill(handle.pid)
    with pytest.raises(CommandExitException):
        handle.wait()
    assert lives(victim)


@pytest.mark.parametrize(
    "size", [100_000_000, pytest.param(1_000_000_000, marks=pytest.mark.heavy)], ids=["100MB", "1GB"]
)
def test_much_output_arrives_whole(victim: Sandbox, size: int) -> None:
    came = 0

    def count(text: str) -> None:
        nonlocal came
        came += len(text)

    victim.commands.run(
        f"head -c {size} /dev/zero | tr '\\0' x", on_stdout=count, timeout=280, retain_output=False
    )

    assert came == size
    assert lives(victim)


def test_output_that_is_not_utf8_breaks_nothing(victim: Sandbox) -> None:
    result = victim.commands.run("printf 'a\\377\\376b\\n'")

    assert result.stdout.startswith("a")
    assert result.stdout.endswith("b\n")


def test_a_command_that_closes_its_output_and_lives_on_is_waited_for(victim: Sandbox) -> None:
    started = time.monotonic()

    result = victim.commands.run("echo first; exec >&- 2>&-; sleep 2")

    assert result.stdout == "first\n"
    assert time.monotonic() - started >= 2


def test_a_client_that_vanishes_does_not_stop_the_command(
    victim: Sandbox, client_options: dict[str, Any]
) -> None:
    script = "head -c 200000000 /dev/zero | tr '\\0' x; touch /tmp/finished"

    def vanish() -> None:
        handle = victim.commands.run(script, background=True)
        for _ in handle:
            break
        handle.disconnect()

    thread = threading.Thread(target=vanish)
    thread.start()
    thread.join(timeout=60)

    victim.commands.run("until [ -e /tmp/finished ]; do sleep 0.1; done", timeout=100)
    assert lives(victim)


def test_a_client_that_reads_nothing_harms_nobody(
    victim: Sandbox, neighbour: Sandbox, client_options: dict[str, Any]
) -> None:
    host, port = client_options["api_url"].removeprefix("http://").split(":")
    victim.commands.run("head -c 300000000 /dev/zero > /tmp/large", timeout=100)
    token = victim.connection_config.sandbox_headers["X-Access-Token"]
    with socket.create_connection((host, int(port))) as rude:
        rude.sendall(
            b"GET /files?path=/tmp/large HTTP/1.1\r\nHost: localhost\r\n"
            + f"E2b-Sandbox-Id: {victim.sandbox_id}\r\nE2b-Sandbox-Port: 49983\r\n".encode()
            + f"X-Access-Token: {token}\r\n\r\n".encode()
        )
        assert lives(neighbour)
        assert lives(victim)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x00" * 4096,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
    ],
    ids=["zeroes", "version", "length", "headers"],
)
def test_rubbish_at_the_door_is_refused(
    neighbour: Sandbox, client_options: dict[str, Any], rubbish: bytes
) -> None:
    host, port = client_options["api_url"].removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=20) as door:
        # The door may close before it has read all.
        with suppress(ConnectionError):
            door.sendall(rubbish)
        with suppress(ConnectionError):
            while piece := door.recv(65536):
                answer += piece

    # A word of refusal, and the connection's end; or its end alone.
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"431", b"505"), answer[:200]
    assert lives(neighbour)
