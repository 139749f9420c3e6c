"""The port to what can be left over on a host."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from atoll.server.domain.storage import Collected, Needed

# Read what rows name now.
Read = Callable[[], Awaitable[Needed]]


class Collector(Protocol):
    """Finds what nobody needs of one kind of things, and removes it."""

    async def collect(self, needed: Read, *, dry: bool) -> Collected:
        """
        Remove what nobody needs; what cannot be removed is a problem in the answer, and no error.

        It first looks at what is there, and then asks what is needed: a row is written before the thing
        that it names, so what was there and is in no row afterwards is nobody's.

        Args:
            needed: read when it is wanted.
            dry: only find it.
        """
        ...
