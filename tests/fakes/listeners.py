"""Listeners on loopback whose ports are used again: fakes/apps.py builds for each address what it builds."""

import socket

_FREE: list[int] = []


def listen() -> socket.socket:
    """Listen on a port that an earlier one of this process had, or on a new one."""
    while _FREE:
        try:
            return socket.create_server(("127.0.0.1", _FREE.pop()))
        except OSError:
            # Somebody else has it by now.
            continue
    return socket.create_server(("127.0.0.1", 0))


def close(listener: socket.socket, port: int) -> None:
    """Close it, if the server did not; the next one may have its port."""
    listener.close()
    _FREE.append(port)
