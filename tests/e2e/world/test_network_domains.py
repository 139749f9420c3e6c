"""A sandbox that reaches some domains only, and what it tries to reach others."""

from collections.abc import Iterator
from typing import Any

import pytest
from e2b import ALL_TRAFFIC, Sandbox
from support.network import PUBLIC4, TCP_PORT
from support.web_world import RESOLVER, web_world

# Inside: says which host the server was asked for, or that nothing came back.
ASK = """
import socket, ssl, sys
address, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sent = sys.argv[4].encode().decode("unicode_escape")
try:
    conn = socket.create_connection((address, port), timeout=10)
    if port == 443:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        conn = context.wrap_socket(conn, server_hostname=name or None)
    conn.sendall(sent.encode())
    got = b""
    while b'"host": ' not in got or b"," not in got.partition(b'"host": ')[2]:
        piece = conn.recv(4096)
        if not piece:
            break
        got += piece
    print("got", got.partition(b'"host": ')[2].partition(b",")[0].decode())
except OSError as error:
    print("nothing", error)
"""


@pytest.fixture(scope="module", autouse=True)
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with web_world(tmp_path_factory.mktemp("world")):
        yield


@pytest.fixture(scope="module")
def sandbox(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    network = {
        "allow_out": ["allowed.example", "*.wild.example", "rebound.example", "host.example"],
        "deny_out": [ALL_TRAFFIC],
        "dns_servers": [RESOLVER],
    }
    made = Sandbox.create("minimal", timeout=600, network=network, **client_options)
    made.files.write("/tmp/ask.py", ASK)
    yield made
    made.kill()


def ask(sandbox: Sandbox, address: str, port: int, name: str, sent: str) -> str:
    return sandbox.commands.run(f"python3 /tmp/ask.py '{address}' {port} '{name}' '{sent}'").stdout.strip()


def get(host: str) -> str:
    return f"GET / HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n"


@pytest.mark.parametrize("port", [80, 443])
@pytest.mark.parametrize("name", ["allowed.example", "api.wild.example"])
def test_allowed_domains_are_reached(sandbox: Sandbox, name: str, port: int) -> None:
    assert ask(sandbox, name, port, name, get(name)) == f'got "{name}"'


def test_where_the_sandbox_says_that_a_name_leads_does_not_count(sandbox: Sandbox) -> None:
    for port in (80, 443):
        said = ask(sandbox, "192.31.196.200", port, "allowed.example", get("allowed.example"))
        assert said == 'got "allowed.example"'


@pytest.mark.parametrize(
    ("address", "port", "name", "sent"),
    [
        ("other.example", 80, "", get("other.example")),
        ("other.example", 443, "other.example", get("other.example")),
        (PUBLIC4, 80, "", get(PUBLIC4)),
        (PUBLIC4, 443, "", get("allowed.example")),
        (PUBLIC4, 80, "", "GET / HTTP/1.0\\r\\n\\r\\n"),
        (PUBLIC4, 80, "", "GET http://other.example/ HTTP/1.1\\r\\nHost: allowed.example\\r\\n\\r\\n"),
        (PUBLIC4, 80, "", "CONNECT allowed.example:443 HTTP/1.1\\r\\nHost: allowed.example:443\\r\\n\\r\\n"),
        (PUBLIC4, TCP_PORT, "", "x"),
        ("192.31.196.200", 80, "", get("rebound.example")),
        ("192.31.196.200", 443, "rebound.example", get("rebound.example")),
        ("192.31.196.200", 80, "", get("host.example")),
        ("rebound.example", 80, "", get("allowed.example")),
        ("169.254.1.1", 80, "", get("allowed.example")),
    ],
)
def test_nothing_else_is_reached(sandbox: Sandbox, address: str, port: int, name: str, sent: str) -> None:
    said = ask(sandbox, address, port, name, sent)

    assert said.startswith("nothing") or said == "got"


def test_quic_is_closed(sandbox: Sandbox) -> None:
    said = sandbox.commands.run(
        'python3 -c "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5);'
        f"s.connect(('{PUBLIC4}', 443)); s.send(b'x')\n"
        'try: s.recv(1)\nexcept OSError as e: print(type(e).__name__)"'
    ).stdout

    assert said == "ConnectionRefusedError\n"


def test_domains_are_replaced_while_it_runs(client_options: dict[str, Any]) -> None:
    network = {"allow_out": ["allowed.example"], "deny_out": [ALL_TRAFFIC], "dns_servers": [RESOLVER]}
    sandbox = Sandbox.create("minimal", timeout=300, network=network, **client_options)
    try:
        sandbox.files.write("/tmp/ask.py", ASK)
        first = ask(sandbox, "allowed.example", 80, "", get("allowed.example"))
        sandbox.update_network({**network, "allow_out": ["other.example"]})
        old = ask(sandbox, "allowed.example", 80, "", get("allowed.example"))
        new = ask(sandbox, "other.example", 443, "other.example", get("other.example"))
        sandbox.update_network({"dns_servers": [RESOLVER]})
        free = ask(sandbox, PUBLIC4, 80, "", get("anything"))
    finally:
        sandbox.kill()

    assert first == 'got "allowed.example"'
    assert old.startswith("nothing") or old == "got"
    assert new == 'got "other.example"'
    assert free == 'got "anything"'
