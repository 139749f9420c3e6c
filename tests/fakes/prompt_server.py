"""uvicorn's server, but for that it ends when it is told to, and not at the next tenth of a second."""

import asyncio
import contextlib

import uvicorn


class PromptServer(uvicorn.Server):
    """Serves in a loop of its own; others end it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()

    def end(self, *, now: bool = False) -> None:
        """End it, from another thread; *now* leaves connections that are open to themselves."""
        self.should_exit, self.force_exit = True, now
        # The loop is closed when the server ended by itself.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end.set)

    async def main_loop(self) -> None:
        ticking = asyncio.ensure_future(super().main_loop())
        ending = asyncio.ensure_future(self._end.wait())
        try:
            await asyncio.wait({ticking, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ticking.cancel()
            ending.cancel()
