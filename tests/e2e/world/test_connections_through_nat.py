"""A connection to the outside, through the host's NAT, while its sandbox is paused and resumed."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import network
from support.home import LiveHome

from atoll import NotFoundError, Sandbox

PORT = 8079

# Says where a connection comes from, then numbers, as long as somebody takes them; and returns what it gets.
SERVER = f"""
import itertools, socket, threading, time
def answer(connection, peer):
    connection.sendall((peer[0].removeprefix("::ffff:") + "\\n").encode())
    threading.Thread(target=echo, args=(connection,), daemon=True).start()
    for number in itertools.count():
        connection.sendall(b"%d\\n" % number)
        time.sleep(0.02)
def echo(connection):
    while data := connection.recv(100):
        connection.sendall(b"back " + data)
server = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    threading.Thread(target=answer, args=server.accept(), daemon=True).start()
"""

# Writes down the last number and where it seems to come from; ends with a word when one is missing.
CLIENT = """
import os, socket, sys
lines = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
reader = lines.makefile()
def tell(name, text):
    with open("/tmp/new", "w") as file: file.write(str(text))
    os.rename("/tmp/new", "/tmp/" + name)
tell("peer", reader.readline().strip())
expected, asked = 0, False
try:
    while line := reader.readline():
        if line.startswith("back "):
            tell("echo", line.strip()); continue
        if int(line) != expected:
            tell("over", f"{line.strip()}, not {expected}"); break
        tell("last", expected); expected += 1
        if not asked and os.path.exists("/tmp/ask"):
            asked = True; lines.sendall(b"again\\n")
    else:
        tell("over", "the end")
except OSError as error:
    tell("over", error)
"""


@pytest.fixture(scope="module")
def outside() -> Iterator[network.World]:
    with network.world() as made:
        yield made


@pytest.fixture
def numbers(outside: network.World) -> Iterator[None]:
    """Serve numbers in the world."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", outside.netns, sys.executable, "-I", "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
            process.wait()


def read(sandbox: Sandbox, name: str) -> str | None:
    with contextlib.suppress(NotFoundError):
        return sandbox.files.read(f"/tmp/{name}")
    return None


def until_past(sandbox: Sandbox, number: int) -> int:
    limit = time.monotonic() + 30
    while (last := int(read(sandbox, "last") or -1)) <= number:
        assert read(sandbox, "over") is None
        assert time.monotonic() < limit, last
        time.sleep(0.1)
    return last


@pytest.mark.usefixtures("numbers")
def test_it_lives_on_and_loses_nothing(home: LiveHome) -> None:
    exports = home.exports
    options: dict[str, Any] = {"api_url": exports["ATOLL_API_URL"], "api_key": exports["ATOLL_API_KEY"]}
    with Sandbox.create("minimal", timeout=600, **options) as sandbox:
        sandbox.files.write("/tmp/client.py", CLIENT)
        client = f"python3 /tmp/client.py {network.PUBLIC4} {PORT}"
        sandbox.commands.run(client, background=True, timeout=0)
        last = until_past(sandbox, 10)
        # It goes through the translation: the other end sees the host.
        assert read(sandbox, "peer") == network.HOST_LINK4

        for _ in range(3):
            sandbox.pause()
            sandbox.resume()
            last = until_past(sandbox, last + 50)

        sandbox.files.write("/tmp/ask", "")
        until_past(sandbox, last + 50)
        assert read(sandbox, "echo") == "back again"
        assert read(sandbox, "over") is None
