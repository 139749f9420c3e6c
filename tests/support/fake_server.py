"""
A real server process over fake machines: ``python -m support.fake_server HOME [park|take-down] [PLACE]``.

With a place (see FakeRuntime), it is killed by SIGKILL when it passes there the first time.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

from atoll.server.main import logs, serving, stopping
from atoll.server.main.__main__ import say_ready
from atoll.server.main.parts import HostParts, Purpose
from atoll.server.runtimes.fake.edge import FakeEdge
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.runtimes.fake.guest import FakeGuest
from atoll.server.runtimes.fake.runtime import FakeRuntime
from atoll.server.runtimes.fake.templates import FakeTemplates
from atoll.server.runtimes.fake.volumes import FakeVolumes
from atoll.server.runtimes.kept import CheckpointFiles
from atoll.server.settings import Settings
from atoll.server.settings.home import Home, open_home
from atoll.server.settings.loading import load


class Deadly(Faults):
    """Kills this process at a place."""

    def __init__(self, place: str | None) -> None:
        super().__init__()
        self._place = place

    async def at(self, place: str) -> None:
        if place == self._place:
            os.kill(os.getpid(), signal.SIGKILL)
        await super().at(place)


def fake_host(place: str | None) -> serving.HostFactory:
    """Make fakes of all parts, on directories of the home."""

    @contextlib.asynccontextmanager
    async def host(home: Home, settings: Settings, purpose: Purpose) -> AsyncIterator[HostParts]:
        faults = Deadly(place)

        async def take_down() -> None:
            (home.path / "taken-down").touch()

        yield HostParts(
            checkpoints=CheckpointFiles(home.checkpoints),
            packing=None,
            collectors=(),
            runtime=FakeRuntime(home.sandboxes, faults=faults),
            guest=FakeGuest(faults=faults),
            edge=FakeEdge(faults=faults),
            templates=FakeTemplates(),
            volumes=FakeVolumes(home.volumes, faults=faults),
            dns_servers=("169.254.1.1",),
            free_memory=lambda: 64 * 1024**3,
            watch=asyncio.Event().wait,
            take_down=take_down,
        )

    return host


def main() -> None:
    home = open_home(Path(sys.argv[1]))
    # Tests count what is there.
    settings = load(home.settings, {"ATOLL_POOL_MEMORY_BYTES": "0"})
    logs.set_up(home.server_log, settings.server, errors=home.server_errors)
    verb, place = (*sys.argv[2:], None, None)[:2]
    if verb not in ("park", "take-down"):
        verb, place = None, verb
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        host = fake_host(place)
        match verb:
            case "park":
                runner.run(stopping.park(home, settings, host))
            case "take-down":
                runner.run(stopping.take_down(home, settings, host))
            case _:
                runner.run(serving.serve(home, settings, host, ready=say_ready))


if __name__ == "__main__":
    main()
