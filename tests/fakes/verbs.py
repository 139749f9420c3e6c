"""All verbs over control in memory, for dialects to be tried against."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from atoll.server.control.limits import ControlLimits
from atoll.server.control.owned.keys import Keys
from atoll.server.control.owned.signing_in import SigningIn
from atoll.server.control.requests import Actor
from atoll.server.control.storage_limits import StorageLimits
from atoll.server.control.upkeep.storing import Storing
from atoll.server.control.upkeep.teams import Belongings, Teams
from atoll.server.control.verbs import Verbs
from atoll.server.control.watching.logbook import Logbook
from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.logs import Line, LogQuery, life, select
from atoll.server.stores.api_keys import SqliteApiKeys
from atoll.server.stores.database import Database
from atoll.server.stores.events import SqliteEvents
from atoll.server.stores.sandboxes import SqliteSandboxes
from atoll.server.stores.snapshots import SqliteSnapshots
from atoll.server.stores.telling import Telling
from fakes.control import FakeControl
from fakes.events import events_in, team_metrics_in, webhooks_in
from fakes.observing import FakeObserving
from fakes.secrets import no_identity, no_secrets


@dataclass
class FakeLogbook(Logbook):
    """The lives of sandboxes, and what a test says of each."""

    control: FakeControl
    said: list[Line] = field(default_factory=list)

    async def read(self, actor: Actor, untrusted_id: str, query: LogQuery) -> Sequence[Line]:
        row = await self.control.get(actor, untrusted_id, ended=True)
        return select([*life(row), *self.said], query)


def verbs_over(control: FakeControl) -> Verbs:
    """Put them together."""
    api_keys = SqliteApiKeys(Database(None))
    keys = Keys(keys=api_keys, clock=SystemClock(), limits=ControlLimits())
    telling = Telling(SystemClock(), most_waiting=1)
    snapshots = SqliteSnapshots(Database(None), telling)
    store = SqliteSandboxes(Database(None), telling)
    # The database is not open: none are kept.
    webhooks, secrets = webhooks_in(Database(None)), no_secrets()
    belongings = Belongings(
        store=store,
        kill=control.kill,
        snapshots=control.snapshots,
        snapshot_rows=snapshots,
        volumes=control.volumes,
        secrets=secrets,
        webhooks=webhooks,
        events=SqliteEvents(Database(None)),
    )
    return Verbs(
        control=control,
        observing=FakeObserving(control),
        team_metrics=team_metrics_in(Database(None), keys),
        logbook=FakeLogbook(control),
        secrets=secrets,
        identity=no_identity(),
        events=events_in(Database(None)),
        webhooks=webhooks,
        keys=keys,
        teams=Teams(keys=api_keys, belongings=belongings, clock=SystemClock(), limits=ControlLimits()),
        signing_in=SigningIn(keys=keys, store=api_keys, authenticate=control.authenticate),
        storing=Storing(
            store=store,
            snapshots=snapshots,
            packing=None,
            collectors=(),
            clock=SystemClock(),
            limits=StorageLimits(),
        ),
    )
