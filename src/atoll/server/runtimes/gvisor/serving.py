"""
Finds out that the programs of a restored machine run: guestd's public port answers.

A connection alone proves nothing: gVisor's network takes it while programs stand still.
What answers is the guest, and hostile: one short line is read, and believed in nothing.
"""

import asyncio
import contextlib
from collections.abc import Callable

from atoll.server.domain.errors import UnavailableError

_PORT = 49983
_QUESTION = b"GET /health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n"
_ANSWER = b"HTTP/1."
# While nobody listens yet.
_AGAIN_S = 0.002
_AGAIN_MOST_S = 0.05
# A packet that got lost while the machine came up is sent again after a second.
_PATIENCE_S = 0.5


async def serves(address: str, *, is_there: Callable[[], bool]) -> None:
    """
    Return when guestd answers; the caller bounds the time.

    Args:
        address: the machine's.
        is_there: whether any process of it is; asked between two tries.

    Raises:
        UnavailableError: it ended meanwhile.
    """
    pause = _AGAIN_S
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                if await _asked(address):
                    return
        if not is_there():
            raise UnavailableError("The machine ended while it came back")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _AGAIN_MOST_S)


async def _asked(address: str) -> bool:
    reader, writer = await asyncio.open_connection(address, _PORT, limit=256)
    try:
        writer.write(_QUESTION)
        return await reader.read(len(_ANSWER)) == _ANSWER
    finally:
        writer.transport.abort()
