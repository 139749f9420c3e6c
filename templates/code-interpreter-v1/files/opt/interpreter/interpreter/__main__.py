"""Starts the Python kernel, then serves: who can connect can run code."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from interpreter import limits
from interpreter.app import make_app
from interpreter.contexts import Contexts


class QuietServer(uvicorn.Server):
    """
    Waits for its end in place of looking for it ten times a second.

    And it does not send itself a signal again when it has served, which would leave the kernels without
    their end.
    """

    def __init__(self, config: uvicorn.Config, end: asyncio.Event) -> None:
        super().__init__(config)
        self._end = end

    async def main_loop(self) -> None:
        """Wait until somebody says so."""
        await self._end.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``main``."""
        yield


async def main() -> None:
    """Serve until somebody ends it."""
    # From the beginning: starting a kernel takes a while. Ctrl+C is for kernels, and none for their server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = asyncio.Event()
    # The loop has to hear of it: a handler of Python's own wakes no loop that waits.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    contexts = Contexts()
    try:
        await _unless(end, contexts.prepare())
        if not end.is_set():
            await QuietServer(_config(contexts), end).serve()
    finally:
        await contexts.close()


async def _unless(end: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do something, and leave it where the end comes first."""
    working = asyncio.ensure_future(work)
    ended = asyncio.ensure_future(end.wait())
    await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


def _config(contexts: Contexts) -> uvicorn.Config:
    return uvicorn.Config(
        make_app(contexts),
        host="0.0.0.0",  # noqa: S104  the doors of a sandbox are the host's
        port=limits.PORT,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        date_header=False,
        server_header=False,
        timeout_keep_alive=limits.KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )


asyncio.run(main())
