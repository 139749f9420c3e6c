"""What a server needs of the machine it runs on, and nothing about how it is made."""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from atoll.server.ports.checkpoints import Checkpoints, Packing
from atoll.server.ports.collector import Collector
from atoll.server.ports.edge import Edge
from atoll.server.ports.guest import Guest
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.templates import Templates
from atoll.server.ports.volumes import VolumeFiles
from atoll.server.settings import Settings
from atoll.server.settings.home import Home


class Purpose(Enum):
    """What the parts are made for."""

    SERVE = auto()
    # No edge is started, only ended; what is there is taken up to be removed, or to be written down.
    TAKE_DOWN = auto()


@dataclass(frozen=True, kw_only=True)
class HostParts:
    """
    The parts that touch the machine.

    Attributes:
        runtime: opened and closed by control.
        guest: calls guestd.
        edge: running, when made to serve.
        templates: that are built.
        volumes: files that outlive sandboxes.
        checkpoints: what paused sandboxes come back from.
        packing: keeps these small; None: nobody does.
        collectors: find what nobody needs, in this order.
        dns_servers: of sandboxes, as seen from inside.
        free_memory: bytes that this host has available now.
        watch: keeps what outlives the server running, until cancelled.
        take_down: removes what is left on the machine when no sandbox is.
    """

    runtime: Runtime
    guest: Guest
    edge: Edge
    templates: Templates
    volumes: VolumeFiles
    checkpoints: Checkpoints
    packing: Packing | None
    collectors: tuple[Collector, ...]
    dns_servers: tuple[str, ...]
    free_memory: Callable[[], int]
    watch: Callable[[], Coroutine[Any, Any, None]]
    take_down: Callable[[], Awaitable[None]]


class HostFactory(Protocol):
    """Makes the parts; leaving the context lets go of them and ends nothing that should live on."""

    def __call__(
        self, home: Home, settings: Settings, purpose: Purpose
    ) -> AbstractAsyncContextManager[HostParts]:
        """Make the parts."""
        ...
