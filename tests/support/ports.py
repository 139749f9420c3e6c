"""Ports that nobody listens on, for programs that are told theirs."""

import random
import socket
from pathlib import Path

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """
    Find a port of loopback's that is free for TCP and UDP.

    It is below those that the kernel gives to outgoing connections: one of these may be taken again before
    the program that it is for listens on it.
    """
    first_ephemeral = int(_EPHEMERAL.read_text().split()[0])
    while True:
        # Chosen anew by each of the processes that tests run in, whatever seed a test has set.
        port = random.SystemRandom().randrange(_LOWEST, first_ephemeral)
        try:
            with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
                stream.bind(("127.0.0.1", port))
                datagram.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
