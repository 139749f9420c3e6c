"""Starts the Python kernel, then serves: who can connect can run code."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from interpreter import limits
from interpreter.app import make_app
from interpreter.contexts import Contexts


class QuietServer(uvicorn.Server):
    """
    Waits for its end in place of looking for it ten times a second.

    It is for the loop to hear of a signal: a handler of Python's own wakes no loop that waits. And it does
    not send itself the signal again when it has served, which would leave the kernels without their end.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait until a signal says so."""
        await self._end.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End when somebody says so. Ctrl+C is for the kernels, and none for their server."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)


async def main() -> None:
    """Serve until somebody ends it."""
    # From the beginning: starting a kernel takes a while.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    contexts = Contexts()
    await contexts.prepare()
    config = uvicorn.Config(
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
    try:
        await QuietServer(config).serve()
    finally:
        await contexts.close()


asyncio.run(main())
