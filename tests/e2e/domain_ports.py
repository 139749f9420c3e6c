"""
What a client does at ``https://{get_host(port)}``: a page, a large body both ways, a stream, a WebSocket.

Run by test_domain.py in a process of its own, with whichever version of the client is there, from 1.x on.
"""

import base64
import hashlib
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import version

from e2b import Sandbox

SERVER = r"""
import base64, hashlib, http.server, time
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.send_response(101); self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade"); self.send_header("Sec-WebSocket-Accept", accept)
            self.end_headers(); self.wfile.flush()
            first, length = self.rfile.read(2)
            mask, data = self.rfile.read(4), self.rfile.read(length & 127)
            text = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
            self.wfile.write(bytes([0x81, len(text)]) + text); self.close_connection = True
            return
        self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
        for part in (b"one", b"two", b"three"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part)); self.wfile.flush(); time.sleep(0.5)
        self.wfile.write(b"0\r\n\r\n")
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Echo).serve_forever()
"""

sandbox = Sandbox("minimal") if version("e2b").startswith("1.") else Sandbox.create("minimal")
try:
    assert sandbox.commands.run("echo $((6 * 7))").stdout == "42\n"
    sandbox.files.write("/tmp/server.py", SERVER)
    assert sandbox.files.read("/tmp/server.py") == SERVER
    sandbox.commands.run("python3 /tmp/server.py", background=True)
    host = sandbox.get_host(8000)
    assert host == f"8000-{sandbox.sandbox_id}.{os.environ['E2B_DOMAIN']}", host
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])

    for attempt in range(100):
        try:
            began = time.monotonic()
            with urllib.request.urlopen(f"https://{host}/", context=context) as answer:
                first, at_first = answer.read(3), time.monotonic()
                assert (first, answer.read()) == (b"one", b"twothree")
                assert time.monotonic() - at_first > 0.5, "the stream was held back"
            break
        except urllib.error.HTTPError as error:
            if error.code != 502 or attempt == 99:
                raise
            time.sleep(0.1)

    body = os.urandom(20 << 20)
    with urllib.request.urlopen(f"https://{host}/", data=body, context=context) as answer:
        assert hashlib.sha256(answer.read()).digest() == hashlib.sha256(body).digest()

    name, _, port = host.partition(":")
    with context.wrap_socket(socket.create_connection((name, int(port))), server_hostname=name) as wire:
        key = base64.b64encode(os.urandom(16)).decode()
        wire.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        stream = wire.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 101")
        while stream.readline() not in (b"\r\n", b""):
            pass
        mask = os.urandom(4)
        wire.sendall(bytes([0x81, 0x85]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(b"hello")))
        assert stream.read(7) == b"\x81\x05hello"
finally:
    sandbox.kill()
sys.stdout.write(f"e2b {version('e2b')} is content\n")
