"""Secrets and identities for apps whose tests are about something else."""

from atoll.server.control.limits import ControlLimits
from atoll.server.control.owned.identity import Identity, Issuer
from atoll.server.control.owned.secrets import Secrets
from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.identity import IdentityLimits
from atoll.server.ports.clock import Clock
from atoll.server.stores.database import Database
from atoll.server.stores.secrets import SqliteSecrets
from atoll.server.stores.signing_keys import SqliteSigningKeys

ISSUER = Issuer(address="https://api.sbx.test:8443", trust_domain="sbx.test")


def secrets_in(database: Database, limits: ControlLimits | None = None) -> Secrets:
    """Keep secrets in a database."""
    store = SqliteSecrets(database, secret=b"s" * 32)
    return Secrets(store=store, clock=SystemClock(), limits=limits or ControlLimits())


def no_secrets() -> Secrets:
    """Keep none: the database is not open."""
    return secrets_in(Database(None))


def identity_in(
    database: Database, clock: Clock | None = None, limits: IdentityLimits | None = None
) -> Identity:
    """Keep signing keys in a database."""
    return Identity(
        keys=SqliteSigningKeys(database, secret=b"s" * 32),
        issuer=ISSUER,
        clock=clock or SystemClock(),
        limits=limits or IdentityLimits(),
    )


def no_identity() -> Identity:
    """Keep none: the database is not open."""
    return identity_in(Database(None))
