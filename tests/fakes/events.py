"""Rows of sandboxes with what they tell; events and webhooks for tests about something else."""

from collections.abc import Callable

from atoll.server.control.owned.keys import Keys
from atoll.server.control.watching.events import EventLimits, Events
from atoll.server.control.watching.observing import MetricsLimits
from atoll.server.control.watching.team_metrics import TeamMetrics
from atoll.server.control.watching.webhooks import WebhookLimits, Webhooks
from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.webhooks import parse_networks
from atoll.server.ports.clock import Clock
from atoll.server.ports.events import EventStore
from atoll.server.stores.database import Database
from atoll.server.stores.deliveries import SqliteDeliveries
from atoll.server.stores.events import SqliteEvents
from atoll.server.stores.sandboxes import SqliteSandboxes
from atoll.server.stores.snapshots import SqliteSnapshots
from atoll.server.stores.telling import Telling
from atoll.server.stores.webhooks import SqliteWebhooks

SECRET = b"s" * 32


def sandboxes_in(
    database: Database,
    clock: Clock | None = None,
    *,
    most_waiting: int = 1000,
    called: Callable[[], None] = lambda: None,
) -> SqliteSandboxes:
    """Keep sandboxes in a database."""
    return SqliteSandboxes(
        database, Telling(clock or SystemClock(), most_waiting=most_waiting, called=called)
    )


def snapshots_in(
    database: Database,
    clock: Clock | None = None,
    *,
    most_waiting: int = 1000,
    called: Callable[[], None] = lambda: None,
) -> SqliteSnapshots:
    """Keep snapshots in a database."""
    return SqliteSnapshots(
        database, Telling(clock or SystemClock(), most_waiting=most_waiting, called=called)
    )


def events_in(database: Database, clock: Clock | None = None, limits: EventLimits | None = None) -> Events:
    """Show events in a database."""
    return Events(store=SqliteEvents(database), clock=clock or SystemClock(), limits=limits or EventLimits())


def team_metrics_in(
    database: Database,
    keys: Keys,
    clock: Clock | None = None,
    limits: EventLimits | None = None,
    event_store: EventStore | None = None,
) -> TeamMetrics:
    """Read how many ran off events in a database."""
    clock = clock or SystemClock()
    return TeamMetrics(
        store=sandboxes_in(database, clock),
        event_store=event_store or SqliteEvents(database),
        keys=keys,
        clock=clock,
        events=limits or EventLimits(),
        metrics=MetricsLimits(),
    )


def webhooks_in(
    database: Database, clock: Clock | None = None, limits: WebhookLimits | None = None
) -> Webhooks:
    """Keep webhooks in a database."""
    limits = limits or WebhookLimits()
    return Webhooks(
        store=SqliteWebhooks(database, secret=SECRET),
        deliveries=SqliteDeliveries(database, secret=SECRET),
        clock=clock or SystemClock(),
        limits=limits,
        allowed=parse_networks(limits.networks),
    )
