"""One machine's worth of fakes, on which servers follow each other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import create_engine

from atoll.server.control.limits import ControlLimits
from atoll.server.control.owned.keys import Keys
from atoll.server.control.owned.signing_in import SigningIn
from atoll.server.control.owned.volumes import VolumeLimits, Volumes
from atoll.server.control.parts import Ports
from atoll.server.control.requests import Actor, CreateSandbox
from atoll.server.control.service import Control
from atoll.server.control.storage_limits import StorageLimits
from atoll.server.control.upkeep.storing import Storing
from atoll.server.control.upkeep.teams import Belongings, Teams
from atoll.server.control.verbs import Verbs
from atoll.server.control.warm.pool import PoolLimits
from atoll.server.control.watching.logbook import Logbook, LogLimits
from atoll.server.control.watching.observing import MetricsLimits, Observing
from atoll.server.domain.errors import AtollError
from atoll.server.domain.events import EventType
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.keys import DEFAULT_TEAM
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.ports.checkpoints import Packing
from atoll.server.ports.events import EventQuery
from atoll.server.ports.snapshots import SnapshotStore
from atoll.server.ports.store import Page, SandboxFilter, Store
from atoll.server.ports.templates import Templates
from atoll.server.runtimes.collecting import OldCheckpoints
from atoll.server.runtimes.fake.clock import FakeClock
from atoll.server.runtimes.fake.edge import FakeEdge
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.runtimes.fake.guest import FakeGuest
from atoll.server.runtimes.fake.runtime import FakeRuntime
from atoll.server.runtimes.fake.templates import FakeTemplates
from atoll.server.runtimes.fake.volumes import FakeVolumes
from atoll.server.runtimes.kept import CheckpointFiles
from atoll.server.stores.api_keys import SqliteApiKeys
from atoll.server.stores.database import Database
from atoll.server.stores.events import SqliteEvents
from atoll.server.stores.lines import FileLines
from atoll.server.stores.migrating import upgrade
from atoll.server.stores.samples import FileSamples
from atoll.server.stores.volumes import SqliteVolumes
from fakes.events import events_in, sandboxes_in, snapshots_in, team_metrics_in, webhooks_in
from fakes.secrets import identity_in, secrets_in

ALICE = Actor(team_id=DEFAULT_TEAM, key_id="alice", key_name="alice")
SECRET = b"s" * 32
LIMITS = ControlLimits(
    max_sandboxes=20,
    concurrent_starts=4,
    start_timeout=timedelta(seconds=5),
    configure_timeout=timedelta(seconds=5),
    forget_timeout=timedelta(seconds=5),
    destroy_timeout=timedelta(seconds=5),
    close_timeout=timedelta(milliseconds=300),
)


def wish(**changes: Any) -> CreateSandbox:
    """Make a wish that can be fulfilled."""
    return CreateSandbox(**{"template": "base", "timeout": timedelta(minutes=5), **changes})


@cache
def _with_tables() -> bytes:
    """Make the file of a database without rows: the migrations would be two thirds of each test's time."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "atoll.db"
        engine = create_engine(f"sqlite:///{path}")
        upgrade(engine)
        engine.dispose()
        return path.read_bytes()


class World:
    """Rows in a file, machines in a directory, and a clock: what stays when a server is gone."""

    def __init__(
        self, directory: Path, limits: ControlLimits = LIMITS, pool: PoolLimits | None = None
    ) -> None:
        self.directory = directory
        if not (file := directory / "atoll.db").exists():
            directory.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_with_tables())
            file.chmod(0o600)
        self.limits = limits
        # Off, unless a test is about it.
        self.pool = pool or PoolLimits(memory_bytes=0)
        self.free_memory = 64 * 1024**3
        self.addresses = 1000
        self.clock = FakeClock()
        self.templates: Templates = FakeTemplates()
        self.renew(Faults())

    def renew(self, faults: Faults) -> None:
        """Make the objects that a server's end takes with it."""
        self.faults = faults
        self.database = Database(self.directory / "atoll.db")
        self.store: Store = sandboxes_in(self.database, self.clock)
        self.api_keys: ApiKeys = SqliteApiKeys(self.database)
        self.snapshots: SnapshotStore = snapshots_in(self.database, self.clock)
        self.samples = FileSamples(self.directory / "metrics", kept=1000)
        self.lines = FileLines(self.directory / "logs", most_bytes=1024 * 1024)
        self.runtime = FakeRuntime(
            self.directory / "machines",
            faults=faults,
            most_machines=self.addresses,
            # Not in a test's time: what would not go is there until something is done about it.
            again_s=3600,
        )
        self.guest = FakeGuest(faults=faults)
        self.edge = FakeEdge(faults=faults)
        self.checkpoints = CheckpointFiles(self.directory / "checkpoints")

    def control(self, *, revives: bool = True) -> Control:
        """Make a server's control; not open yet."""
        ports = Ports(
            store=self.store,
            api_keys=self.api_keys,
            runtime=self.runtime,
            guest=self.guest,
            edge=self.edge,
            templates=self.templates,
            volumes=self.volumes(),
            clock=self.clock,
            checkpoints=self.checkpoints,
            snapshots=self.snapshots,
            free_memory=lambda: self.free_memory,
            parting=self.logbook().part,
        )
        return Control(
            ports,
            secret=SECRET,
            dns_servers=("169.254.1.1",),
            limits=self.limits,
            pool=self.pool,
            revives=revives,
        )

    def observing(self) -> Observing:
        """Make a server's sampling; not running yet."""
        return Observing(
            store=self.store,
            runtime=self.runtime,
            samples=self.samples,
            clock=self.clock,
            limits=self.limits,
            metrics=MetricsLimits(),
        )

    def logbook(self, logs: LogLimits | None = None) -> Logbook:
        """Make a server's logbook; not running yet."""
        return Logbook(
            store=self.store,
            runtime=self.runtime,
            guest=self.guest,
            lines=self.lines,
            clock=self.clock,
            limits=self.limits,
            logs=logs or LogLimits(),
        )

    def verbs(self, control: Control) -> Verbs:
        """Put together what a server offers."""
        return Verbs(
            control=control,
            observing=self.observing(),
            team_metrics=team_metrics_in(self.database, self.keys(), self.clock),
            logbook=self.logbook(),
            secrets=secrets_in(self.database),
            identity=identity_in(self.database, self.clock),
            events=events_in(self.database, self.clock),
            webhooks=webhooks_in(self.database, self.clock),
            keys=self.keys(),
            teams=self.teams(control),
            signing_in=SigningIn(keys=self.keys(), store=self.api_keys, authenticate=control.authenticate),
            storing=self.storing(),
        )

    def storing(self, packing: Packing | None = None, limits: StorageLimits | None = None) -> Storing:
        """Make what a server keeps small; not running yet."""
        return Storing(
            store=self.store,
            snapshots=self.snapshots,
            packing=packing,
            collectors=(OldCheckpoints(self.checkpoints),),
            clock=self.clock,
            limits=limits or StorageLimits(),
        )

    def keys(self) -> Keys:
        """Make a server's verbs of teams and keys."""
        return Keys(keys=self.api_keys, clock=self.clock, limits=self.limits)

    def teams(self, control: Control) -> Teams:
        """Make what changes and deletes teams; not running yet."""
        belongings = Belongings(
            store=self.store,
            kill=control.kill,
            snapshots=control.snapshots,
            snapshot_rows=self.snapshots,
            volumes=control.volumes,
            secrets=secrets_in(self.database),
            webhooks=webhooks_in(self.database, self.clock),
            events=SqliteEvents(self.database),
        )
        return Teams(keys=self.api_keys, belongings=belongings, clock=self.clock, limits=self.limits)

    def volumes(self) -> Volumes:
        """Make a server's verbs of volumes."""
        return Volumes(
            store=SqliteVolumes(self.database),
            files=FakeVolumes(self.directory / "volumes", faults=self.faults),
            clock=self.clock,
            secret=SECRET,
            limits=VolumeLimits(),
        )

    @asynccontextmanager
    async def server(self) -> AsyncIterator[Control]:
        """Open the database and control, and close both afterwards."""
        async with self.database, self.control() as control:
            yield control

    async def rows(self) -> dict[SandboxId, Sandbox]:
        """Read all rows, ended ones too."""
        found = await self.store.list_sandboxes(SandboxFilter(), Page(limit=1000))
        return {row.id: row for row in found}

    async def assert_agreement(self) -> None:
        """Check that rows and machines say the same, and that nothing is half done."""
        rows = await self.rows()
        unfinished = {row.id: row.status for row in rows.values() if row.status in HALF}
        assert unfinished == {}
        running = {row.id for row in rows.values() if row.status is Status.RUNNING}
        assert self.runtime.running() == running
        paused = {row.id for row in rows.values() if row.status is Status.PAUSED}
        assert set(await FakeRuntime(self.directory / "machines").remains()) == running | paused
        named = {row.pause.checkpoint for row in rows.values() if row.pause is not None}
        kept = {snapshot.id for snapshot in await self.snapshots.all_snapshots()}
        assert await self.checkpoints.names() == named | kept
        for row in rows.values():
            if row.status is Status.RUNNING:
                assert (row.address, row.ended_at, row.end_reason) != (None, None, None)
                assert row.address is not None
            elif row.status is Status.PAUSED:
                assert (row.address, row.ended_at, row.end_reason) == (None, None, None)
                assert row.pause is not None
            else:
                assert row.ended_at is not None
                assert row.end_reason is not None
                assert row.address is None
        await self._assert_told()

    async def _assert_told(self) -> None:
        """Check that of each life its owner is told once that it began, and once that it ended."""
        # Nothing happens between the two calls: neither yields.
        rows = await self.rows()
        query = EventQuery(team_id=DEFAULT_TEAM, limit=10_000, oldest_first=True)
        told: dict[SandboxId, list[EventType]] = {sandbox_id: [] for sandbox_id in rows}
        for event in await SqliteEvents(self.database).list_events(query):
            if event.type in ENDS:
                told[event.sandbox_id].append(event.type)
        for row in rows.values():
            expected = [EventType.CREATED] if row.started_at is not None else []
            if expected and row.status not in (Status.RUNNING, Status.PAUSED):
                expected.append(EventType.KILLED)
            assert told[row.id] == expected, (row, told[row.id])


ENDS = {EventType.CREATED, EventType.KILLED}
HALF = {Status.CREATING, Status.KILLING, Status.PAUSING, Status.RESUMING}


def small(**changes: Any) -> ControlLimits:
    """Change some of the limits."""
    return replace(LIMITS, **changes)


async def outcome(call: Awaitable[Any]) -> Any:
    """Return what a call returns or raises, so that a group of calls goes on."""
    try:
        return await call
    except AtollError as error:
        return error


async def turns(number: int = 20) -> None:
    """Let others run for some turns of the loop: for what must *not* happen, which no event tells."""
    for _ in range(number):
        await asyncio.sleep(0)
