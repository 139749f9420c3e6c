"""Starts the Python kernel, then serves: who can connect can run code."""

import asyncio
import signal
from typing import Any

import uvicorn

from interpreter import limits
from interpreter.app import make_app
from interpreter.contexts import Contexts


class QuietServer(uvicorn.Server):
    """Waits for its end in place of looking for it ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait until a signal says so."""
        await self._end.wait()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End."""
        super().handle_exit(sig, frame)
        self._end.set()


async def main() -> None:
    """Serve until somebody ends it."""
    # Ctrl+C for the kernels is none for their server.
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
