"""The public API on a TCP port, served as in production, over the real control and fake machines."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from atoll.server.api.app import PublicAddress
from atoll.server.api.limits import ApiLimits, server_options
from atoll.server.control.limits import ControlLimits
from atoll.server.control.rows.access import set_home_key
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import DEFAULT_TEAM, KeyKind, make_key
from fakes import listeners
from fakes.apps import public_app
from fakes.prompt_server import PromptServer
from fakes.teams import add_teams
from fakes.world import LIMITS, World

KEY = "e2b_" + "a1" * 20
OTHER_KEY = "e2b_" + "b2" * 20


@dataclass(frozen=True)
class LiveApi:
    """Where it listens."""

    port: int
    world: World
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def domain(self) -> str:
        return f"localhost:{self.port}"


@contextmanager
def live_api(
    directory: Path, limits: ControlLimits = LIMITS, home_key: str | None = None
) -> Iterator[LiveApi]:
    """Serve until left, in a thread of its own: the clients under test block theirs."""
    listener = listeners.listen()
    # Accepted connections inherit it; asyncio sets it only where it made the listener itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    port = listener.getsockname()[1]
    world = World(directory, limits)
    ready = threading.Event()
    running: list[tuple[PromptServer, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        async with world.server() as control:
            await add_teams(world.database, "other")
            for key, team, name in ((KEY, DEFAULT_TEAM, "test"), (OTHER_KEY, TeamId("other"), "other")):
                made = make_key(key, KeyKind.API_KEY, team, name, world.clock.now())
                await world.api_keys.add_api_key(made, most=10)
            if home_key is not None:
                await set_home_key(world.api_keys, world.clock, home_key, name="home")
            verbs = world.verbs(control)
            app = public_app(
                verbs,
                PublicAddress(domain=f"localhost:{port}"),
                ApiLimits(),
            )
            server = PromptServer(uvicorn.Config(app, **server_options()))
            running.append((server, asyncio.get_running_loop()))
            ready.set()
            async with asyncio.TaskGroup() as group:
                behind = group.create_task(verbs.teams.run())
                await server.serve(sockets=[listener])
                behind.cancel()

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="live-api")
    thread.start()
    ready.wait(30)
    try:
        [(server, loop)] = running
        yield LiveApi(port, world, loop)
    finally:
        for server, _ in running:
            server.end()
        thread.join(30)
        listeners.close(listener, port)
