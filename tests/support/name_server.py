"""A name server that says the same address for every name: somebody else's, for tests of ours before it."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

ADDRESS = "192.0.2.9"


@contextlib.contextmanager
def name_server(listen: str) -> Iterator[list[str]]:
    """Serve over UDP on port 53 of a loopback address; what is yielded grows by each name that was asked."""
    asked: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((listen, 53))
        thread = threading.Thread(target=_serve, args=(server, asked), daemon=True)
        thread.start()
        try:
            yield asked
        finally:
            # An empty message ends it: closing a socket wakes nobody.
            server.sendto(b"", (listen, 53))
            thread.join(10)


def _serve(server: socket.socket, asked: list[str]) -> None:
    while True:
        message, peer = server.recvfrom(4096)
        if not message:
            return
        place, labels = 12, []
        while size := message[place]:
            labels.append(message[place + 1 : place + 1 + size].decode())
            place += 1 + size
        asked.append(".".join(labels))
        question = message[12 : place + 5]
        (kind,) = struct.unpack("!H", message[place + 1 : place + 3])
        answer = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(ADDRESS) if kind == 1 else b""
        head = struct.pack("!HHHHHH", *struct.unpack("!H", message[:2]), 0x8180, 1, 1 if answer else 0, 0, 0)
        server.sendto(head + question + answer, peer)
