"""A sandbox tries to reach what it must not: the host, its neighbours, private and metadata addresses."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import Sandbox

PROBE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
probe = socket.socket(family)
probe.settimeout(3)
try:
    probe.connect((sys.argv[1], int(sys.argv[2])))
    print("reached")
except OSError as error:
    print("not reached", error)
"""

ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5) as port:
    try:
        port.sendall(b"POST /atoll.guest.v1.GuestService/KillGreediest HTTP/1.1\\r\\nHost: x\\r\\n"
                     b"Content-Type: application/json\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
        print(port.recv(4096)[:12])
    except ConnectionError:
        print(b"")
"""


@pytest.fixture(scope="module")
def inside(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    sandbox = Sandbox.create("minimal", timeout=600, **client_options)
    sandbox.files.write("/tmp/probe.py", PROBE)
    yield sandbox
    sandbox.kill()


def probe(sandbox: Sandbox, address: str, port: int) -> str:
    return sandbox.commands.run(f"python3 /tmp/probe.py '{address}' {port}").stdout


def host_addresses() -> list[str]:
    listing = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    addresses = [line.split()[3].split("/")[0] for line in listing.splitlines()]
    return sorted({address for address in addresses if not address.startswith(("127.", "::1", "fe80"))})


@pytest.mark.parametrize("address", host_addresses())
def test_no_address_of_the_host_is_reached(inside: Sandbox, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        server.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
        server.listen()
        port = server.getsockname()[1]

        answer = probe(inside, address, port)

    assert answer.startswith("not reached")


def test_the_door_itself_is_not_reached_from_inside(inside: Sandbox, client_options: dict[str, Any]) -> None:
    port = int(client_options["api_url"].rsplit(":", 1)[1])

    assert probe(inside, "169.254.1.1", port).startswith("not reached")


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "fd00::1", "fe80::1"],
)
def test_private_and_metadata_addresses_are_not_reached(inside: Sandbox, address: str) -> None:
    assert probe(inside, address, 80).startswith("not reached")


def test_neighbours_are_not_reached(inside: Sandbox, client_options: dict[str, Any]) -> None:
    other = Sandbox.create("minimal", timeout=120, **client_options)
    try:
        address = other.commands.run(
            'python3 -c "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);'
            "s.connect(('192.175.48.1', 9)); print(s.getsockname()[0])\""
        ).stdout.strip()
        answers = [probe(inside, address, port) for port in (49983, 49982, 22)]
    finally:
        other.kill()

    assert all(answer.startswith("not reached") for answer in answers)


def test_without_internet_nothing_is_reached(inside: Sandbox, client_options: dict[str, Any]) -> None:
    # Somewhere in the world that this machine reaches: its Debian mirror.
    world = socket.gethostbyname("deb.debian.org")
    sandbox = Sandbox.create("minimal", timeout=120, allow_internet_access=False, **client_options)
    try:
        sandbox.files.write("/tmp/probe.py", PROBE)
        closed = probe(sandbox, world, 80)
    finally:
        sandbox.kill()

    assert probe(inside, world, 80).startswith("reached")
    assert closed.startswith("not reached")


def test_the_private_port_answers_the_host_only(inside: Sandbox) -> None:
    inside.files.write("/tmp/ask.py", ASK)

    # Closed before a byte is read, whoever asks: a refusal in words would be an answer.
    for user in ("user", "root"):
        assert inside.commands.run("python3 /tmp/ask.py 49982", user=user).stdout == "b''\n"
    assert inside.commands.run("python3 /tmp/ask.py 49983").stdout.startswith("b'HTTP/1.1 ")


def test_the_door_forwards_no_private_port_and_no_control_route(
    inside: Sandbox, client_options: dict[str, Any]
) -> None:
    host, port = client_options["api_url"].removeprefix("http://").split(":")

    token = inside.connection_config.sandbox_headers["X-Access-Token"]

    def ask(path: str, sandbox_port: int, token: str = "") -> bytes:
        with socket.create_connection((host, int(port)), timeout=10) as door:
            door.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: {inside.sandbox_id}\r\n"
                f"E2b-Sandbox-Port: {sandbox_port}\r\nContent-Length: 2\r\nConnection: close\r\n"
                f"X-Access-Token: {token}\r\n"
                "Content-Type: application/json\r\n\r\n{}".encode()
            )
            return door.recv(65536)

    # What is asked for is there to be asked: the daemon answers at its own port.
    assert b" 200 " in ask("/process.Process/List", 49983, token).split(b"\r\n")[0]
    for path in ("/init", "//init", "/%69nit", "/./init", "/freeze"):
        assert b" 404 " in ask(path, 49983).split(b"\r\n")[0]
    assert b" 400 " in ask("/atoll.guest.v1.GuestService/KillGreediest", 49982).split(b"\r\n")[0]


def test_another_sandboxs_token_opens_nothing(inside: Sandbox, client_options: dict[str, Any]) -> None:
    other = Sandbox.create("minimal", timeout=120, **client_options)
    others = other.connection_config.sandbox_headers["X-Access-Token"]
    other.kill()

    def status(token: str) -> int:
        return httpx.post(
            client_options["api_url"] + "/filesystem.Filesystem/ListDir",
            json={"path": "/"},
            headers={
                "E2b-Sandbox-Id": inside.sandbox_id,
                "E2b-Sandbox-Port": "49983",
                "X-Access-Token": token,
            },
        ).status_code

    assert status(inside.connection_config.sandbox_headers["X-Access-Token"]) == 200
    assert status(others) == 401


def test_threads_of_a_crowd_do_not_deadlock_the_door(inside: Sandbox) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(3):
                assert inside.commands.run("echo x").stdout == "x\n"
        except BaseException as error:
            failures.append(error)

    crowd = [threading.Thread(target=work) for _ in range(16)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(timeout=120)

    assert not failures
