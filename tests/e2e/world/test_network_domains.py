"""A sandbox that reaches some domains only, and what it tries to reach others."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import ALL_TRAFFIC, Sandbox
from support.network import PUBLIC4, TCP_PORT, WORLD_LINK4, ip, world

RESOLVER4 = "192.175.48.53"

# The world: a resolver, and a web server in the clear and over TLS that tells the Host it sees.
PROGRAM = """
import http.server, socket, ssl, struct, sys, threading
NAMES = {"allowed.example": "192.175.48.77", "sub.wild.example": "192.175.48.77",
         "other.example": "192.175.48.77",
         "rebound.example": "10.250.77.1", "host.example": "169.254.1.1"}
class Tell(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"host=" + self.headers["Host"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
def serve(port, context):
    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Tell)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
serve(80, None)
serve(443, context)
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind(("192.175.48.53", 53))
print("ready", flush=True)
while True:
    question, peer = resolver.recvfrom(2048)
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    kind, = struct.unpack("!H", question[at + 1 : at + 3])
    address = NAMES.get(".".join(labels)) if kind == 1 else None
    head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1 if address else 0, 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address) if address else b""
    resolver.sendto(head + question[12 : at + 5] + record, peer)
"""

# Inside: says what came back, or that nothing did.
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
    while b"host=" not in got:
        piece = conn.recv(4096)
        if not piece:
            break
        got += piece
    print("got", got[got.find(b"host="):] if b"host=" in got else b"")
except OSError as error:
    print("nothing", error)
"""


@pytest.fixture(scope="module", autouse=True)
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("world")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", "/CN=world", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    with world() as made:
        ip(f"-n {made.netns} addr add {RESOLVER4}/32 dev lo")
        ip(f"route add {RESOLVER4}/32 via {WORLD_LINK4}")
        program = subprocess.Popen(
            ["ip", "netns", "exec", made.netns, sys.executable, "-I", "-c", PROGRAM, str(cert), str(key)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            yield
        finally:
            program.kill()
            program.communicate()


@pytest.fixture(scope="module")
def sandbox(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    network = {
        "allow_out": ["allowed.example", "*.wild.example", "rebound.example", "host.example"],
        "deny_out": [ALL_TRAFFIC],
        "dns_servers": [RESOLVER4],
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
@pytest.mark.parametrize("name", ["allowed.example", "sub.wild.example"])
def test_allowed_domains_are_reached(sandbox: Sandbox, name: str, port: int) -> None:
    assert ask(sandbox, name, port, name, get(name)) == f"got b'host={name}'"


def test_where_the_sandbox_says_that_a_name_leads_does_not_count(sandbox: Sandbox) -> None:
    for port in (80, 443):
        said = ask(sandbox, "192.31.196.200", port, "allowed.example", get("allowed.example"))
        assert said == "got b'host=allowed.example'"


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

    assert said.startswith("nothing") or said == "got b''"


def test_quic_is_closed(sandbox: Sandbox) -> None:
    said = sandbox.commands.run(
        'python3 -c "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5);'
        f"s.connect(('{PUBLIC4}', 443)); s.send(b'x')\n"
        'try: s.recv(1)\nexcept OSError as e: print(type(e).__name__)"'
    ).stdout

    assert said == "ConnectionRefusedError\n"


def test_domains_are_replaced_while_it_runs(client_options: dict[str, Any]) -> None:
    network = {"allow_out": ["allowed.example"], "deny_out": [ALL_TRAFFIC], "dns_servers": [RESOLVER4]}
    sandbox = Sandbox.create("minimal", timeout=300, network=network, **client_options)
    try:
        sandbox.files.write("/tmp/ask.py", ASK)
        first = ask(sandbox, "allowed.example", 80, "", get("allowed.example"))
        sandbox.update_network({**network, "allow_out": ["other.example"]})
        old = ask(sandbox, "allowed.example", 80, "", get("allowed.example"))
        new = ask(sandbox, "other.example", 443, "other.example", get("other.example"))
        sandbox.update_network({"dns_servers": [RESOLVER4]})
        free = ask(sandbox, PUBLIC4, 80, "", get("anything"))
    finally:
        sandbox.kill()

    assert first == "got b'host=allowed.example'"
    assert old.startswith(("nothing", "got b''"))
    assert new == "got b'host=other.example'"
    assert free == "got b'host=anything'"
