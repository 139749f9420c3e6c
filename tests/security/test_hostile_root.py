"""Root of a sandbox turns against what stands around it: names, addresses, and the daemon beside him."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import AuthenticationException, Sandbox
from support.home import LiveHome

OWN_ADDRESS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("192.175.48.1", 9))
print(s.getsockname()[0])
"""

# Takes an address as its own, by netlink, and asks the name server from there: over TCP and over UDP.
FORGER = """
import socket, struct, sys

QUESTION = b"\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\\x06debian\\3org\\0\\0\\1\\0\\1"
address = socket.inet_aton(sys.argv[1])
body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 2)
body += struct.pack("=HH", 8, 2) + address + struct.pack("=HH", 8, 1) + address
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
    netlink.send(struct.pack("=IHHII", 16 + len(body), 20, 0x605, 1, 0) + body)
    netlink.recv(4096)
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as forged:
        forged.settimeout(2)
        forged.bind((sys.argv[1], 0))
        try:
            forged.connect(("169.254.1.1", 53))
            if kind == socket.SOCK_DGRAM:
                forged.send(QUESTION)
                forged.recv(512)
            print("answered")
        except TimeoutError:
            print("silence")
"""

CONNECTIONS = """
import socket, sys
kept = []
for _ in range(500):
    try:
        kept.append(socket.create_connection(("169.254.1.1", 53), timeout=3))
    except OSError:
        break
print(len(kept), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def rogue(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    sandbox = Sandbox.create("minimal", timeout=300, **client_options)
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="module")
def neighbour(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    sandbox = Sandbox.create("minimal", timeout=600, **client_options)
    yield sandbox
    sandbox.kill()


def run_python(sandbox: Sandbox, program: str, *args: str) -> str:
    sandbox.files.write("/tmp/program.py", program)
    return sandbox.commands.run(" ".join(["python3 /tmp/program.py", *args]), user="root").stdout.strip()


def test_from_a_forged_address_nothing_is_answered(rogue: Sandbox, neighbour: Sandbox) -> None:
    stolen = run_python(neighbour, OWN_ADDRESS)

    own = run_python(rogue, FORGER, run_python(rogue, OWN_ADDRESS))
    forged = [run_python(rogue, FORGER, address) for address in (stolen, "10.77.0.1", "8.8.8.8")]

    assert own == "answered\nanswered"
    assert forged == ["silence\nsilence"] * 3
    assert run_python(neighbour, OWN_ADDRESS) == stolen


def test_connections_to_the_name_server_do_not_take_the_edges_descriptors(
    rogue: Sandbox, neighbour: Sandbox, home: LiveHome
) -> None:
    descriptors = Path(f"/proc/{home.edge_pid()}/fd")
    before = len(list(descriptors.iterdir()))
    rogue.files.write("/tmp/program.py", CONNECTIONS)

    flood = rogue.commands.run("python3 /tmp/program.py", background=True, stdin=True, timeout=60)
    for stdout, _, _ in flood:
        if stdout:
            break

    # 32 of the name server's, and some of the calls under way.
    assert len(list(descriptors.iterdir())) - before < 64
    assert run_python(neighbour, OWN_ADDRESS)
    flood.kill()


def test_a_users_file_that_never_answers_makes_nobody_wait(rogue: Sandbox) -> None:
    rogue.commands.run("rm /etc/passwd && mkfifo /etc/passwd", user="root")

    with pytest.raises(AuthenticationException, match="invalid username"):
        rogue.commands.run("id", user="user", request_timeout=10)
    assert rogue.commands.run("id -u", user="root", request_timeout=10).stdout == "0\n"
