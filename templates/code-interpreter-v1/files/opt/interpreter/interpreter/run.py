"""What an execution says, on its way to its client."""

import asyncio
from collections.abc import AsyncIterator

from interpreter import items, limits
from interpreter.items import Item


class Run:
    """An execution as its client sees it: items until the end, and a way to give it up."""

    def __init__(self) -> None:
        # What waits here is bounded by what one execution may put out.
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._waiting = 0
        self._few = asyncio.Event()
        self._few.set()
        self.given_up = asyncio.Event()
        self.over = False

    def put(self, item: Item) -> None:
        """Hand an item on; drop it when the client is gone."""
        if not self.given_up.is_set():
            self._items.put_nowait(item)
            self._count(items.size(item))

    async def taken(self) -> None:
        """Return when the client has all items but a few, or is gone."""
        few = asyncio.ensure_future(self._few.wait())
        gone = asyncio.ensure_future(self.given_up.wait())
        try:
            await asyncio.wait({few, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            few.cancel()
            gone.cancel()

    async def __aiter__(self) -> AsyncIterator[list[Item]]:
        """Give what there is; items that nobody waits for come with the next, or a moment later."""
        batch: list[Item] = []
        while not batch or batch[-1] is not items.END:
            try:
                async with asyncio.timeout(limits.HELD_S if batch else limits.SILENCE_S):
                    batch.append(await self._items.get())
            except TimeoutError:
                yield batch or [items.KEEPALIVE]
                self._count(-sum(map(items.size, batch)))
                batch = []
                continue
            weight = items.size(batch[-1])
            while not self._items.empty() and weight < limits.BATCH_BYTES:
                batch.append(self._items.get_nowait())
                weight += items.size(batch[-1])
            if not items.can_wait(batch[-1]):
                yield batch
                self._count(-sum(map(items.size, batch)))
                batch = []
        yield batch
        self._count(-sum(map(items.size, batch)))

    def _count(self, weight: int) -> None:
        self._waiting += weight
        if self._waiting > limits.BATCH_BYTES:
            self._few.clear()
        else:
            self._few.set()
