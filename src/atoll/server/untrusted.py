"""
What is read from those whom nobody trusts, guests and webhooks: so much and no more, and shown without harm.

Knows nothing of who they are.
"""

import ssl

import httpcore
from typing_extensions import override

# Of what somebody says about itself, this many characters are kept.
_MOST_TEXT = 200


class BoundedStream(httpcore.AsyncNetworkStream):
    """
    Reads so much from a connection and no more; TLS's own bytes do not count.

    Every byte behind that counts, not the body's only: informational answers, say, would go on for ever.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream, most: int) -> None:
        self._stream = stream
        self._most = most
        self._left = most

    @override
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._left <= 0:
            raise httpcore.RemoteProtocolError(f"an answer of over {self._most} bytes")
        data = await self._stream.read(min(max_bytes, self._left), timeout)
        self._left -= len(data)
        return data

    @override
    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    @override
    async def aclose(self) -> None:
        await self._stream.aclose()

    @override
    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._most)

    @override
    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def clean(untrusted: str, most: int = _MOST_TEXT) -> str:
    """Cut somebody's words short, and leave out what would drive a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in untrusted[:most])
