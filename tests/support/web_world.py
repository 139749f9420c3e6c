"""
The world as web servers, resolvers and proxies: a program for the namespace that ``network.world`` makes.

Servers tell what they were sent, as JSON, in the clear and over TLS with an authority of their own.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from atoll.server.edge.authority import make_certificate, make_egress_authority
from support.network import WORLD_LINK4, ip, world

RESOLVER = "192.175.48.53"
PROXY = "192.175.48.80"
# Reached by nobody but proxies that the operator allowed.
INNER_PROXY = "10.250.77.80"
USER, PASSWORD = "someone", "pa55-word"
SERVERS = "192.175.48.77"

_PROGRAM = """
import http.server, json, pathlib, socket, ssl, struct, sys, threading
SERVERS, RESOLVER, PROXY, INNER, USER, PASSWORD = sys.argv[2:8]
HERE = pathlib.Path(sys.argv[1])
NAMES = {"allowed.example": SERVERS, "other.example": SERVERS, "api.wild.example": SERVERS,
         "forged.example": SERVERS, "rebound.example": "10.250.77.1", "proxy.example": PROXY,
         "inner.example": INNER, "host.example": "169.254.1.1"}
class Tell(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "https://other.example/redirected")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        length = int(self.headers.get("Content-Length", 0))
        said = {"host": self.headers["Host"], "path": self.path, "from": self.client_address[0],
                "sent": len(self.rfile.read(length)), "headers": self.headers.items()}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *_):
        pass
def serve(port, context):
    server = http.server.ThreadingHTTPServer((SERVERS, port), Tell)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
def context(name):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(HERE / (name + ".pem"))
    return made
contexts = {name: context(name) for name in NAMES}
def choose(conn, name, _):
    conn.context = contexts.get(name, contexts["other.example"])
tls = context("other.example")
tls.sni_callback = choose
serve(80, None); serve(8080, None); serve(443, tls)
def exactly(conn, size):
    got = b""
    while len(got) < size:
        piece = conn.recv(size - len(got))
        if not piece:
            raise OSError("ended")
        got += piece
    return got
def pump(one, other):
    try:
        while piece := one.recv(65536):
            other.sendall(piece)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def tunnel(conn):
    try:
        methods = exactly(conn, exactly(conn, 2)[1])
        if 2 not in methods:
            conn.sendall(b"\\x05\\xff")
            return
        conn.sendall(b"\\x05\\x02")
        user = exactly(conn, exactly(conn, 2)[1]).decode()
        password = exactly(conn, exactly(conn, 1)[0]).decode()
        fine = (user, password) == (USER, PASSWORD)
        conn.sendall(b"\\x01" + (b"\\x00" if fine else b"\\x01"))
        if not fine:
            return
        assert exactly(conn, 4) == b"\\x05\\x01\\x00\\x01"
        address = socket.inet_ntoa(exactly(conn, 4)), struct.unpack("!H", exactly(conn, 2))[0]
        # What comes through a proxy comes from its address.
        onward = socket.create_connection(address, timeout=5, source_address=(PROXY, 0))
        onward.settimeout(None)
        conn.sendall(b"\\x05\\x00\\x00\\x01" + bytes(6))
        back = threading.Thread(target=pump, args=(onward, conn), daemon=True)
        back.start()
        pump(conn, onward)
        back.join()
    except (OSError, AssertionError):
        pass
    finally:
        conn.close()
def proxy(address, port, context):
    listener = socket.create_server((address, port))
    if context:
        listener = context.wrap_socket(listener, server_side=True, do_handshake_on_connect=True)
    def accept():
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                continue
            threading.Thread(target=tunnel, args=(conn,), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
proxy(PROXY, 1080, None); proxy(PROXY, 1081, context("proxy.example")); proxy(INNER, 1080, None)
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind((RESOLVER, 53))
print("ready", flush=True)
while True:
    question, peer = resolver.recvfrom(2048)
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    kind, = struct.unpack("!H", question[at + 1 : at + 3])
    address = NAMES.get(".".join(labels).lower()) if kind == 1 else None
    head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1 if address else 0, 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address) if address else b""
    resolver.sendto(head + question[12 : at + 5] + record, peer)
"""
_NAMES = ("allowed.example", "other.example", "api.wild.example", "rebound.example", "proxy.example",
          "inner.example", "host.example")  # fmt: skip


@dataclass(frozen=True)
class WebWorld:
    """What tests need of it: the authority of its servers, in a file."""

    authority: Path


@contextmanager
def web_world(folder: Path) -> Iterator[WebWorld]:
    """Make the world; its certificates are in the folder."""
    now = datetime.now(UTC)
    authority, forger = (make_egress_authority(name, now) for name in ("world", "forger"))
    (folder / "ca.pem").write_bytes(authority.certificate)
    for name, signer in [*((name, authority) for name in _NAMES), ("forged.example", forger)]:
        made = make_certificate(signer, name, now)
        (folder / f"{name}.pem").write_bytes(made.certificate + made.key)
    with world() as made_world:
        for address in (RESOLVER, PROXY, INNER_PROXY):
            ip(f"-n {made_world.netns} addr add {address}/32 dev lo")
            ip(f"route add {address}/32 via {WORLD_LINK4}")
        words = [str(folder), SERVERS, RESOLVER, PROXY, INNER_PROXY, USER, PASSWORD]
        program = subprocess.Popen(
            ["ip", "netns", "exec", made_world.netns, sys.executable, "-I", "-c", _PROGRAM, *words],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            yield WebWorld(authority=folder / "ca.pem")
        finally:
            program.kill()
            program.communicate()
