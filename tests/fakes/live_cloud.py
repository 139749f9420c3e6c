"""The real API over control in memory, and a fake daemon for what names a sandbox: on one port."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from atoll.server.api.app import PublicAddress
from atoll.server.api.limits import ApiLimits
from fakes import listeners
from fakes.apps import public_app
from fakes.control import KEY, FakeControl
from fakes.daemon import FakeDaemon
from fakes.prompt_server import PromptServer
from fakes.verbs import verbs_over


@dataclass(frozen=True)
class LiveCloud:
    """Where it listens, and what is behind it."""

    url: str
    control: FakeControl
    daemon: FakeDaemon
    loop: asyncio.AbstractEventLoop

    @property
    def options(self) -> dict[str, Any]:
        """What the SDK takes to speak to it."""
        return {"api_url": self.url, "api_key": KEY, "request_timeout": 20}


@contextmanager
def live_cloud(directory: Path) -> Iterator[LiveCloud]:
    """Serve until left, in a thread of its own: clients under test block theirs."""
    listener = listeners.listen()
    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    ready = threading.Event()
    made: list[tuple[LiveCloud, PromptServer]] = []

    async def serve() -> None:
        control, daemon = FakeControl(), FakeDaemon(directory)
        domain = url.removeprefix("http://").replace("127.0.0.1", "localhost")
        api = public_app(verbs_over(control), PublicAddress(domain=domain), ApiLimits())

        async def app(scope: Any, receive: Any, send: Any) -> None:
            named = any(name == b"e2b-sandbox-id" for name, _ in scope.get("headers", ()))
            await (daemon if named else api)(scope, receive, send)

        # ERROR: a connection that is cut on purpose is no news.
        server = PromptServer(uvicorn.Config(app, lifespan="off", log_level="critical", ws="none"))
        made.append((LiveCloud(url, control, daemon, asyncio.get_running_loop()), server))
        ready.set()
        try:
            await server.serve(sockets=[listener])
        finally:
            await daemon.processes.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="live-cloud")
    thread.start()
    ready.wait(30)
    [(cloud, server)] = made
    try:
        yield cloud
    finally:
        server.end(now=True)
        thread.join(30)
        listeners.close(listener, port)
