"""Secrets for apps whose tests are about something else."""

from atoll.server.control.clock import SystemClock
from atoll.server.control.limits import ControlLimits
from atoll.server.control.secrets import Secrets
from atoll.server.stores.database import Database
from atoll.server.stores.secrets import SqliteSecrets


def secrets_in(database: Database, limits: ControlLimits | None = None) -> Secrets:
    """Keep secrets in a database."""
    store = SqliteSecrets(database, secret=b"s" * 32)
    return Secrets(store=store, clock=SystemClock(), limits=limits or ControlLimits())


def no_secrets() -> Secrets:
    """Keep none: the database is not open."""
    return secrets_in(Database(None))
