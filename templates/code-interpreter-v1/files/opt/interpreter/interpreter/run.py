"""What an execution says, on its way to its client."""

import asyncio
from collections.abc import AsyncIterator

from interpreter import items, limits
from interpreter.items import Item


class Run:
    """An execution as its client sees it: lines until the end, and a way to give it up."""

    def __init__(self) -> None:
        # What waits here is bounded by what one execution may put out: as lines, since JSON's values take
        # many times as much. With each goes whether something is due behind it.
        self._lines: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self._waiting = 0
        self._few = asyncio.Event()
        self._few.set()
        self.given_up = asyncio.Event()
        self.over = False

    def put(self, item: Item) -> None:
        """Hand an item on; drop it when the client is gone."""
        if not self.given_up.is_set():
            line = items.END_LINE if item is items.END else items.line(item)
            self._lines.put_nowait((line, items.can_wait(item)))
            self._count(len(line))

    async def taken(self) -> None:
        """Return when the client has all items but a few, or is gone."""
        few = asyncio.ensure_future(self._few.wait())
        gone = asyncio.ensure_future(self.given_up.wait())
        try:
            await asyncio.wait({few, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            few.cancel()
            gone.cancel()

    async def __aiter__(self) -> AsyncIterator[list[bytes]]:
        """Give what there is; lines that nobody waits for come with the next, or a moment later."""
        batch: list[bytes] = []
        while not batch or batch[-1] is not items.END_LINE:
            try:
                async with asyncio.timeout(limits.HELD_S if batch else limits.SILENCE_S):
                    line, can_wait = await self._lines.get()
            except TimeoutError:
                yield batch or [items.KEEPALIVE_LINE]
                self._count(-sum(map(len, batch)))
                batch = []
                continue
            batch.append(line)
            weight = len(line)
            while not self._lines.empty() and weight < limits.BATCH_BYTES:
                line, can_wait = self._lines.get_nowait()
                batch.append(line)
                weight += len(line)
            if not can_wait:
                yield batch
                self._count(-sum(map(len, batch)))
                batch = []
        yield batch
        self._count(-sum(map(len, batch)))

    def _count(self, weight: int) -> None:
        self._waiting += weight
        if self._waiting > limits.BATCH_BYTES:
            self._few.clear()
        else:
            self._few.set()
