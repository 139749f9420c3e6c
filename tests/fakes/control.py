"""Control in memory, with the promises of its docstrings: enough for dialects to be tried against."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from atoll.server.control.lifecycle.pausing import Pausing
from atoll.server.control.lifecycle.snapshots import Snapshots
from atoll.server.control.limits import ControlLimits
from atoll.server.control.owned.volumes import Volumes
from atoll.server.control.reach.routing import Routing
from atoll.server.control.requests import Actor, CreateSandbox, Route, SandboxPage
from atoll.server.control.rows import checking
from atoll.server.control.rows.reading import ROUTED
from atoll.server.control.rows.room import ALIVE
from atoll.server.control.service import Control
from atoll.server.control.warm.pool import Pool, check_sees
from atoll.server.domain import ingress
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
)
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId, new_sandbox_id, parse_sandbox_id
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import ProcessKilledForMemory, Usage
from atoll.server.domain.pool import PoolKey, PoolStatus
from atoll.server.domain.sandbox import FINAL, EndReason, Pause, Sandbox, Status, Target, pausing_at_deadline
from atoll.server.domain.snapshot import Snapshot
from atoll.server.domain.template import Template, no_such_tag, without_tag
from atoll.server.domain.upkeep import NEVER
from atoll.server.ports.store import Page, SandboxFilter
from fakes.volumes import memory_volumes

KEY = "e2b_" + "a1" * 20
OTHER_KEY = "e2b_" + "b2" * 20
LIMITS = Limits(cpus=0.5, memory_bytes=512 * 1024 * 1024, processes=1024, disk_bytes=2 * 1024**3)
BASE = Template(
    id=TemplateId("base-3f1c9a27d0b4"),
    name="base",
    built_at=datetime(2026, 1, 1, tzinfo=UTC),
    limits=LIMITS,
)
LONGEST = timedelta(hours=24)


class HandClock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.time = datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    async def sleep_until(self, when: datetime) -> None:
        self.time = max(self.time, when)

    def turn(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class FakePausing(Pausing):
    """Moves rows between running and paused."""

    def __init__(self, control: "FakeControl") -> None:
        self._control = control

    async def pause(
        self, actor: Actor, untrusted_id: str, kind: CheckpointKind, *, healthy: bool = False
    ) -> Sandbox:
        sandbox = await self._control.get(actor, untrusted_id)
        if sandbox.status is not Status.RUNNING:
            raise FailedPreconditionError(f"Sandbox {sandbox.id} is {sandbox.status}, not running")
        pause = Pause(checkpoint=f"{sandbox.id}-1", kind=kind, at=self._control.clock.now())
        row = replace(sandbox, status=Status.PAUSED, target=Target.PAUSED, pause=pause)
        self._control.rows[sandbox.id] = row
        return row

    async def connect(
        self,
        actor: Actor,
        untrusted_id: str,
        from_now: timedelta,
        *,
        memory: bool = True,
        auto_pause: bool = False,
    ) -> tuple[Sandbox, bool]:
        sandbox = await self._control.get(actor, untrusted_id)
        if sandbox.status is Status.RUNNING:
            return await self._control.refresh(actor, untrusted_id, from_now), False
        _check_timeout(from_now)
        deadline = self._control.clock.now() + from_now
        self._control.resumed_with_memory.append(memory)
        row = replace(sandbox, status=Status.RUNNING, target=Target.RUNNING, pause=None, deadline=deadline)
        row = pausing_at_deadline(row) if auto_pause else row
        self._control.rows[sandbox.id] = row
        return row, True


class FakeRouting(Routing):
    """Knows where rows say that they are."""

    def __init__(self, control: "FakeControl") -> None:
        self._control = control

    async def route(self, untrusted_id: str) -> Route:
        self._control.fail_once()
        sandbox = self._control.rows.get(parse_sandbox_id(untrusted_id))
        if sandbox is None or sandbox.status not in ROUTED:
            raise NotFoundError("no such running sandbox")
        return Route(
            sandbox_id=sandbox.id, address=sandbox.address, status=sandbox.status, ingress=sandbox.ingress
        )


class FakeSnapshots(Snapshots):
    """Has none."""

    def __init__(self) -> None:
        pass

    async def find(self, actor: Actor, untrusted_reference: str) -> Snapshot | None:
        return None


class FakePool(Pool):
    """Has one machine of the one template waiting."""

    def __init__(self) -> None:
        self._shelves = {}
        self._making = set()
        status = PoolStatus(
            key=PoolKey(template_id=BASE.id, limits=BASE.limits),
            template=BASE.name,
            ids=(SandboxId("i" + "0" * 20),),
            wanted=2,
            hits=3,
            misses=4,
            oldest=datetime(2026, 1, 1, tzinfo=UTC),
            machine_bytes=25_000_000,
            problem="The host's disk is full",
        )
        self.found = [status]

    def statuses(self, actor: Actor) -> list[PoolStatus]:
        check_sees(actor)
        return self.found


@dataclass
class FakeControl(Control):
    """Two teams, two templates' worth of rules, no machines."""

    clock: HandClock = field(default_factory=HandClock)
    rows: dict[SandboxId, Sandbox] = field(default_factory=dict)
    keys: Mapping[str, Actor] = field(
        default_factory=lambda: {
            KEY: Actor(team_id=TeamId("team1"), key_id="one", key_name="one"),
            OTHER_KEY: Actor(team_id=TeamId("team2"), key_id="two", key_name="two"),
        }
    )
    # Raised by the next verb, once.
    failure: Exception | None = None
    wishes: list[CreateSandbox] = field(default_factory=list)
    # One of each resume.
    resumed_with_memory: list[bool] = field(default_factory=list)

    memory_volumes: Volumes = field(default_factory=memory_volumes)
    pool: Pool = field(default_factory=FakePool)

    @property
    def volumes(self) -> Volumes:
        return self.memory_volumes

    @property
    def snapshots(self) -> Snapshots:
        return FakeSnapshots()

    @property
    def pausing(self) -> Pausing:
        return FakePausing(self)

    @property
    def routing(self) -> Routing:
        return FakeRouting(self)

    def fail_once(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    async def authenticate(self, untrusted_key: str | None) -> Actor:
        if untrusted_key is None:
            raise UnauthenticatedError("API key is missing")
        if untrusted_key not in self.keys:
            raise UnauthenticatedError("Invalid API key")
        return self.keys[untrusted_key]

    async def create(self, actor: Actor, wish: CreateSandbox) -> Sandbox:
        self.fail_once()
        template = await self.template(actor, wish.template)
        _check_timeout(wish.timeout)
        self.wishes.append(wish)
        self.clock.turn(0.001)
        now = self.clock.now()
        sandbox = Sandbox(
            id=new_sandbox_id(),
            team_id=actor.team_id,
            template_id=template.id,
            template_alias=without_tag(wish.template),
            target=Target.RUNNING,
            status=Status.RUNNING,
            limits=template.limits,
            egress=checking.check_egress(wish.egress, ControlLimits()),
            ingress=ingress.checked(wish.ingress),
            metadata=dict(wish.metadata),
            env=dict(wish.env),
            created_at=now,
            started_at=now,
            deadline=NEVER if wish.upkeep.persistent else now + wish.timeout,
            upkeep=wish.upkeep,
            address="10.0.0.2",
            runtime="fake",
            secured=wish.secured,
        )
        self.rows[sandbox.id] = sandbox
        return sandbox

    async def get(self, actor: Actor, untrusted_id: str, *, ended: bool = False) -> Sandbox:
        self.fail_once()
        sandbox_id = parse_sandbox_id(untrusted_id)
        sandbox = self.rows.get(sandbox_id)
        hidden = sandbox is not None and (sandbox.status in FINAL or sandbox.status is Status.KILLING)
        if sandbox is None or sandbox.team_id != actor.team_id or (hidden and not ended):
            raise NotFoundError(f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it")
        return sandbox

    def _matching(self, actor: Actor, filter: SandboxFilter) -> list[Sandbox]:
        statuses = filter.statuses or ALIVE
        template = None if filter.template is None else without_tag(filter.template)
        return [
            row
            for row in self.rows.values()
            if row.team_id == actor.team_id
            and row.status in statuses
            and set(filter.metadata) <= set(row.metadata.items())
            and template in (None, row.template_alias, row.template_id)
            and (filter.started_after is None or (row.started_at or row.created_at) >= filter.started_after)
        ]

    async def list(self, actor: Actor, filter: SandboxFilter, page: Page) -> SandboxPage:
        self.fail_once()
        if not 1 <= page.limit <= 1000:
            raise InvalidArgumentError("limit")
        rows = sorted(
            self._matching(actor, filter), key=lambda row: (row.created_at, row.id), reverse=page.newest_first
        )
        if page.after is not None:
            after = page.after
            rows = [
                row
                for row in rows
                if (
                    (row.created_at, row.id) < after
                    if page.newest_first
                    else (row.created_at, row.id) > after
                )
            ]
        part = tuple(rows[: page.limit])
        more = len(rows) > page.limit
        return SandboxPage(sandboxes=part, next=(part[-1].created_at, part[-1].id) if more else None)

    async def count(self, actor: Actor, filter: SandboxFilter) -> int:
        return len(self._matching(actor, filter))

    async def kill(self, actor: Actor, untrusted_id: str) -> Sandbox:
        sandbox = await self.get(actor, untrusted_id)
        self.rows[sandbox.id] = replace(
            sandbox,
            status=Status.KILLED,
            target=Target.KILLED,
            end_reason=EndReason.KILLED,
            ended_at=self.clock.now(),
        )
        return self.rows[sandbox.id]

    async def set_timeout(self, actor: Actor, untrusted_id: str, from_now: timedelta) -> Sandbox:
        sandbox = await self.get(actor, untrusted_id)
        if from_now < timedelta(0):
            raise InvalidArgumentError("Timeout must not be negative")
        if from_now > LONGEST:
            raise InvalidArgumentError("Timeout cannot be greater than 24 hours")
        self.rows[sandbox.id] = replace(sandbox, deadline=self.clock.now() + from_now)
        return self.rows[sandbox.id]

    async def refresh(self, actor: Actor, untrusted_id: str, from_now: timedelta) -> Sandbox:
        sandbox = await self.get(actor, untrusted_id)
        _check_timeout(from_now)
        self.rows[sandbox.id] = replace(sandbox, deadline=max(sandbox.deadline, self.clock.now() + from_now))
        return self.rows[sandbox.id]

    async def set_egress(self, actor: Actor, untrusted_id: str, egress: EgressPolicy) -> Sandbox:
        sandbox = await self.get(actor, untrusted_id)
        egress = checking.check_egress(egress, ControlLimits())
        self.rows[sandbox.id] = replace(sandbox, egress=egress)
        return self.rows[sandbox.id]

    async def usage(self, actor: Actor, untrusted_id: str) -> Usage:
        await self.get(actor, untrusted_id)
        return Usage(cpu_seconds=1.0, memory_bytes=32 * 1024 * 1024, cache_bytes=4096, disk_bytes=4096)

    async def memory_kills(self, actor: Actor, untrusted_id: str) -> Sequence[ProcessKilledForMemory]:
        sandbox = await self.get(actor, untrusted_id, ended=True)
        return [
            ProcessKilledForMemory(sandbox_id=sandbox.id, pid=7, command="python3", resident_bytes=5 * 10**8)
        ]

    async def templates(self, actor: Actor) -> Sequence[Template]:
        self.fail_once()
        return [BASE]

    async def template(self, actor: Actor, name: str) -> Template:
        bare, colon, _ = without_tag(name).partition(":")
        if bare not in (BASE.name, BASE.id):
            raise NotFoundError(f"template '{bare}' not found")
        if colon:
            raise no_such_tag(name)
        return BASE

    def access_token(self, sandbox_id: SandboxId) -> str:
        return hashlib.sha256(sandbox_id.encode()).hexdigest()

    def traffic_token(self, sandbox: Sandbox | Route) -> str | None:
        if sandbox.ingress.public:
            return None
        sandbox_id = sandbox.id if isinstance(sandbox, Sandbox) else sandbox.sandbox_id
        return hashlib.sha256(b"traffic " + sandbox_id.encode()).hexdigest()


def _check_timeout(timeout: timedelta) -> None:
    if timeout <= timedelta(0):
        raise InvalidArgumentError("Timeout must be greater than 0")
    if timeout > LONGEST:
        raise InvalidArgumentError("Timeout cannot be greater than 24 hours")
