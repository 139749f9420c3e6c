"""
Hears from the kernel when the host's addresses change, or when a packet filter table of ours is removed.

It only says that something happened; who listens looks for himself.
"""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

# linux/netlink.h, rtnetlink.h, nfnetlink.h; Python's socket module lacks most of them.
_NETLINK_ROUTE = 0
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_GROUP_IPV4_ADDRESS = 5
_GROUP_IPV6_ADDRESS = 9
_GROUP_NFTABLES = 7
_DELETE_TABLE = (10 << 8) | 2
# Length, type, flags, sequence, port; then, of an address: family, prefix, flags, scope.
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBB")
_SCOPE_LINK = 253
_BUFFER = 64 * 1024
# Read at most so often at one go; the loop calls again when there is more.
_READS = 16


class HostWatch:
    """Use it as a context manager, in a running event loop."""

    def __init__(self, table: str) -> None:
        """
        Args:
            table: the name of our table; other tables may come and go.
        """
        self._table = table.encode() + b"\0"
        self._changed = asyncio.Event()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for protocol, groups in (
            (_NETLINK_ROUTE, (_GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS)),
            (_NETLINK_NETFILTER, (_GROUP_NFTABLES,)),
        ):
            listening = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
            )
            self._sockets.append(listening)
            listening.bind((0, 0))
            for group in groups:
                listening.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            loop.add_reader(listening, self._read, listening, protocol)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()

    async def changed(self) -> None:
        """Return when something happened since ``forget``."""
        await self._changed.wait()

    def forget(self) -> None:
        """Begin anew."""
        self._changed.clear()

    def _read(self, listening: socket.socket, protocol: int) -> None:
        for _ in range(_READS):
            try:
                data = listening.recv(_BUFFER)
            except BlockingIOError:
                return
            except OSError:
                # The kernel dropped messages: anything may have happened.
                self._changed.set()
                return
            if self._concerns_us(data, protocol):
                self._changed.set()

    def _concerns_us(self, data: bytes, protocol: int) -> bool:
        at = 0
        with contextlib.suppress(struct.error):
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if length < _HEADER.size:
                    return False
                if protocol == _NETLINK_NETFILTER:
                    if kind == _DELETE_TABLE and self._table in data[at : at + length]:
                        return True
                # Link-local addresses are forbidden anyway, and all of our own slots' are.
                elif _ADDRESS.unpack_from(data, at + _HEADER.size)[3] < _SCOPE_LINK:
                    return True
                at += (length + 3) & ~3
        return False
