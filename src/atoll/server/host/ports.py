"""Ports that nobody listens on."""

import errno
import random
import socket
from pathlib import Path

# Below are those of well-known services.
LOWEST = 10_000
_HIGHEST = 65_535
# Fewer than these below those of outgoing connections are too few to choose from.
_ENOUGH = 1_000
_MOST_TRIES = 1_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(ephemeral: Path = _EPHEMERAL) -> int:
    """
    Find a port that is free for TCP and UDP at all IPv4 addresses of this machine.

    It is below those that the kernel gives to outgoing connections, unless there are next to none: any
    connection may take one of these before its program listens there, or listens there again.

    Args:
        ephemeral: where the kernel says which those are.

    Raises:
        OSError: none is found (EADDRINUSE), or the file cannot be read.
    """
    end = int(ephemeral.read_text().split()[0])
    if end - LOWEST < _ENOUGH:
        end = _HIGHEST + 1
    # Not the same as another process that was given the same seed.
    chance = random.SystemRandom()
    for _ in range(_MOST_TRIES):
        port = chance.randrange(LOWEST, end)
        if _is_free(port):
            return port
    raise OSError(errno.EADDRINUSE, f"{_MOST_TRIES} of the ports from {LOWEST} to {end - 1} are taken")


def _is_free(port: int) -> bool:
    try:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind(("", port))
            datagram.bind(("", port))
    except OSError:
        return False
    return True
