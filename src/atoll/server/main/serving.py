"""Runs a server: opens everything in order, serves until told to stop, and closes in the other order."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from atoll.server.api.app import PublicAddress, build_private, build_public
from atoll.server.api.limits import server_options
from atoll.server.control.owned.identity import Identity
from atoll.server.control.owned.keys import Keys
from atoll.server.control.owned.secrets import Secrets
from atoll.server.control.owned.signing_in import SigningIn
from atoll.server.control.reach.naming import Naming
from atoll.server.control.rows import access
from atoll.server.control.upkeep.storing import Storing
from atoll.server.control.upkeep.teams import Belongings, Teams
from atoll.server.control.verbs import Verbs
from atoll.server.control.watching.delivering import Delivering
from atoll.server.control.watching.events import Events
from atoll.server.control.watching.logbook import Logbook
from atoll.server.control.watching.observing import Observing
from atoll.server.control.watching.team_metrics import TeamMetrics
from atoll.server.control.watching.webhooks import Webhooks
from atoll.server.control.work.clock import SystemClock
from atoll.server.couriers.http import HttpCourier
from atoll.server.domain.webhooks import parse_networks
from atoll.server.main import doors, issuing, resolving
from atoll.server.main.controlling import make_control, make_telling
from atoll.server.main.hosts_names import HostsNames, NamedSandboxes
from atoll.server.main.parts import HostFactory, HostParts, Purpose
from atoll.server.ports.snapshots import SnapshotStore
from atoll.server.ports.store import Store
from atoll.server.ports.webhooks import Courier
from atoll.server.settings import Settings
from atoll.server.settings.home import Home
from atoll.server.stores.api_keys import SqliteApiKeys
from atoll.server.stores.database import SPARE_BYTES, Database
from atoll.server.stores.deliveries import SqliteDeliveries
from atoll.server.stores.events import SqliteEvents
from atoll.server.stores.lines import FileLines
from atoll.server.stores.samples import FileSamples
from atoll.server.stores.sandboxes import SqliteSandboxes
from atoll.server.stores.secrets import SqliteSecrets
from atoll.server.stores.signing_keys import SqliteSigningKeys
from atoll.server.stores.snapshots import SqliteSnapshots
from atoll.server.stores.telling import Telling
from atoll.server.stores.webhooks import SqliteWebhooks

log = structlog.get_logger(__name__)

# What is there so long after the start, the first requests done, stays: the collector need not look at it
# again and again, for 70 ms in which nothing else is done.
_SETTLED_S = 5.0
# The name of the key in the home's file `key`.
HOME_KEY = "home"


async def serve(home: Home, settings: Settings, host: HostFactory, *, ready: Callable[[], None]) -> None:
    """
    Serve until SIGTERM or SIGINT; sandboxes and edge live on.

    Args:
        home: whose server this is; it is locked for as long as this runs.
        settings: of everything.
        host: makes the parts that touch the machine.
        ready: called once clients are answered.

    Raises:
        FailedPreconditionError: another server runs in this home.
        AtollError: something does not open.
    """
    with home.locked(), _stop_signal() as stop:
        async with Database(home.database, spare_bytes=SPARE_BYTES) as database:
            await access.set_home_key(SqliteApiKeys(database), SystemClock(), home.api_key(), name=HOME_KEY)
            async with host(home, settings, Purpose.SERVE) as parts, _courier(settings) as courier:
                delivering = make_delivering(home, settings, database, courier)
                telling = make_telling(settings, delivering.call)
                naming = make_naming(home, settings, database, telling)
                store = NamedSandboxes(database, telling, naming.changed)
                snapshots = SqliteSnapshots(database, telling)
                verbs = make_verbs(home, settings, database, parts, store=store, snapshots=snapshots)
                async with verbs.control:
                    await verbs.control.volumes.open()
                    behind = {
                        "watch the edge": parts.watch,
                        "take samples": verbs.observing.run,
                        "fetch logs": verbs.logbook.run,
                        "keep names": naming.run,
                        "forget events": verbs.events.run,
                        "deliver to webhooks": delivering.run,
                        "delete teams": verbs.teams.run,
                        "keep storage small": verbs.storing.run,
                    }
                    await _serve_until(stop, home, settings, verbs, naming, behind, ready)
    log.info("server stopped")


def make_verbs(
    home: Home,
    settings: Settings,
    database: Database,
    parts: HostParts,
    *,
    store: Store,
    snapshots: SnapshotStore,
) -> Verbs:
    """Put everything together; control is not open yet."""
    clock = SystemClock()
    logbook = Logbook(
        store=store,
        runtime=parts.runtime,
        guest=parts.guest,
        lines=FileLines(home.sandbox_logs, most_bytes=settings.logs.sandbox_bytes),
        clock=clock,
        limits=settings.sandboxes,
        logs=settings.logs,
    )
    control = make_control(
        home, settings, database, parts, store=store, snapshots=snapshots, parting=logbook.part
    )
    observing = Observing(
        store=store,
        runtime=parts.runtime,
        samples=FileSamples(home.samples, kept=settings.metrics.samples_kept),
        clock=clock,
        limits=settings.sandboxes,
        metrics=settings.metrics,
        nobodys=lambda: control.pool.ids,
    )
    event_store = SqliteEvents(database)
    secrets = Secrets(
        store=SqliteSecrets(database, secret=home.secret()), clock=clock, limits=settings.sandboxes
    )
    api_keys = SqliteApiKeys(database)
    keys = Keys(keys=api_keys, clock=clock, limits=settings.sandboxes)
    webhooks = Webhooks(
        store=SqliteWebhooks(database, secret=home.secret()),
        deliveries=SqliteDeliveries(database, secret=home.secret()),
        clock=clock,
        limits=settings.webhooks,
        allowed=parse_networks(settings.webhooks.networks),
    )
    belongings = Belongings(
        store=store,
        kill=control.kill,
        snapshots=control.snapshots,
        snapshot_rows=snapshots,
        volumes=control.volumes,
        secrets=secrets,
        webhooks=webhooks,
        events=event_store,
    )
    return Verbs(
        control=control,
        observing=observing,
        team_metrics=TeamMetrics(
            store=store,
            event_store=event_store,
            keys=keys,
            clock=clock,
            events=settings.events,
            metrics=settings.metrics,
        ),
        logbook=logbook,
        secrets=secrets,
        identity=Identity(
            keys=SqliteSigningKeys(database, secret=home.secret()),
            issuer=issuing.issuer(home.id, settings),
            clock=clock,
            limits=settings.identity,
        ),
        events=Events(store=event_store, clock=clock, limits=settings.events),
        webhooks=webhooks,
        keys=keys,
        teams=Teams(keys=api_keys, belongings=belongings, clock=clock, limits=settings.sandboxes),
        signing_in=SigningIn(keys=keys, store=api_keys, authenticate=control.authenticate),
        storing=Storing(
            store=store,
            snapshots=snapshots,
            packing=parts.packing,
            collectors=parts.collectors,
            clock=clock,
            limits=settings.storage,
        ),
    )


def make_naming(home: Home, settings: Settings, database: Database, telling: Telling) -> Naming:
    """Put together what keeps names of sandboxes in a file, if that is wanted; not running yet."""
    return Naming(
        store=SqliteSandboxes(database, telling),
        names=HostsNames(home, settings, partial(resolving.wants_hosts, home)),
        clock=SystemClock(),
        pause=settings.tls.hosts_pause,
    )


def make_delivering(home: Home, settings: Settings, database: Database, courier: Courier) -> Delivering:
    """Put together what delivers to webhooks; not running yet."""
    return Delivering(
        store=SqliteDeliveries(database, secret=home.secret()),
        courier=courier,
        clock=SystemClock(),
        limits=settings.webhooks,
    )


def _courier(settings: Settings) -> HttpCourier:
    limits = settings.webhooks
    return HttpCourier(
        timeout=limits.timeout,
        allowed=parse_networks(limits.networks),
        connections=max(limits.at_once * limits.webhooks_at_once, 1),
    )


def public_domain(settings: Settings) -> str:
    """Return what host names of sandboxes end in, with the port where that is not the usual one."""
    if settings.tls.listen:
        return doors.public_domain(settings)
    return settings.server.domain or f"localhost:{settings.server.listen.rpartition(':')[2]}"


async def _serve_until(
    stop: asyncio.Event,
    home: Home,
    settings: Settings,
    verbs: Verbs,
    naming: Naming,
    behind: Mapping[str, Callable[[], Coroutine[Any, Any, None]]],
    ready: Callable[[], None],
) -> None:
    address = PublicAddress(domain=public_domain(settings))
    apps = {
        home.api_socket: build_public(verbs, address, settings.api),
        home.control_socket: build_private(
            verbs.control, verbs.secrets, verbs.identity, settings.api, naming
        ),
    }
    with contextlib.ExitStack() as stack:
        listeners = {path: stack.enter_context(_listening(path)) for path in apps}
        servers = [(_server(app, settings), listeners[path]) for path, app in apps.items()]
        async with asyncio.TaskGroup() as group:
            working = [group.create_task(work(), name=name) for name, work in behind.items()]
            serving = [
                group.create_task(server.serve(sockets=[listener]), name="serve")
                for server, listener in servers
            ]
            # The listeners are there: who connects now waits for the servers' first turn.
            ready()
            log.info("server ready", home=str(home.path), listen=settings.server.listen)
            asyncio.get_running_loop().call_later(_SETTLED_S, gc.freeze)
            stopping = group.create_task(_wait(stop))
            await asyncio.wait([stopping, *serving], return_when=asyncio.FIRST_COMPLETED)
            log.info("server stopping")
            for server, _ in servers:
                server.should_exit = True
            await asyncio.wait(serving)
            for task in (stopping, *working):
                task.cancel()


class _Server(uvicorn.Server):
    """Leaves signals to us: there are two servers here, and more to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, settings: Settings) -> _Server:
    options = server_options()
    options["timeout_graceful_shutdown"] = max(1, round(settings.server.shutdown_timeout.total_seconds()))
    return _Server(uvicorn.Config(app, **options))


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """Listen on a socket that only we may connect to; an earlier server's, if it is there, is replaced."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(server_options()["backlog"])
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _stop_signal() -> Iterator[asyncio.Event]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
