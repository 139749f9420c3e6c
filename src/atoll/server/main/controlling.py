"""
Puts control together, for a server and for whoever ends everything of a home.

Apart from ``serving``, since the latter needs no API: loading that takes as long as all the rest.
"""

from collections.abc import Callable

from atoll.server.control.machines.killing import Parting
from atoll.server.control.owned.volumes import Volumes
from atoll.server.control.parts import Ports
from atoll.server.control.service import Control
from atoll.server.control.work.clock import SystemClock
from atoll.server.main.parts import HostParts
from atoll.server.ports.snapshots import SnapshotStore
from atoll.server.ports.store import Store
from atoll.server.settings import Settings
from atoll.server.settings.home import Home
from atoll.server.stores.api_keys import SqliteApiKeys
from atoll.server.stores.database import Database
from atoll.server.stores.telling import Telling
from atoll.server.stores.volumes import SqliteVolumes


def make_telling(settings: Settings, called: Callable[[], None] = lambda: None) -> Telling:
    """Put together what changes of rows tell."""
    return Telling(SystemClock(), most_waiting=settings.webhooks.most_waiting, called=called)


def make_control(
    home: Home,
    settings: Settings,
    database: Database,
    parts: HostParts,
    *,
    store: Store,
    snapshots: SnapshotStore,
    parting: Parting | None = None,
    revives: bool = True,
) -> Control:
    """Put control together; not open yet. ``revives``: as ``Control`` has it."""
    clock = SystemClock()
    volumes = Volumes(
        store=SqliteVolumes(database),
        files=parts.volumes,
        clock=clock,
        secret=home.secret(),
        limits=settings.volumes,
    )
    ports = Ports(
        store=store,
        api_keys=SqliteApiKeys(database),
        runtime=parts.runtime,
        guest=parts.guest,
        edge=parts.edge,
        templates=parts.templates,
        volumes=volumes,
        clock=clock,
        checkpoints=parts.checkpoints,
        snapshots=snapshots,
        free_memory=parts.free_memory,
        parting=parting,
    )
    return Control(
        ports,
        secret=home.secret(),
        dns_servers=parts.dns_servers,
        limits=settings.sandboxes,
        pool=settings.pool,
        revives=revives,
    )
