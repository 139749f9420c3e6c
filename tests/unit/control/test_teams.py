"""Teams are limited and deleted, and a server that dies in between leaves nothing half done for good."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.crashes import Crash, PointedStore, Points
from fakes.events import webhooks_in
from fakes.secrets import secrets_in
from fakes.world import LIMITS, World, outcome, wish

from atoll.server.control.requests import Actor, CreateSandbox, LimitsOverride
from atoll.server.control.rows import access
from atoll.server.control.service import Control
from atoll.server.control.upkeep.teams import RETRY_DELAY, Teams
from atoll.server.control.watching.webhooks import NewWebhook
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    Reason,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from atoll.server.domain.keys import DEFAULT_TEAM, KeyKind, Team, new_key
from atoll.server.domain.sandbox import Status
from atoll.server.domain.team_limits import TeamLimits
from atoll.server.ports.events import EventQuery
from atoll.server.ports.store import Page, SandboxFilter
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.stores.events import SqliteEvents

MINUTE = timedelta(minutes=1)
MIB = 1024 * 1024


@dataclass
class Office:
    """A server, the home's key, and a team with one of its own."""

    world: World
    control: Control
    teams: Teams
    home: Actor
    team: Team
    member: Actor
    shown: str

    async def listed(self) -> list[str]:
        return sorted(team.name for team in await self.world.api_keys.list_teams())

    async def limit(self, **changes: Any) -> None:
        """Change its limits, and have its member called again."""
        await self.teams.set_limits(self.home, "research", changes)
        self.member = await self.control.authenticate(self.shown)

    async def fill(self) -> None:
        """Give it one of everything."""
        world, control, member = self.world, self.control, self.member
        running = await control.create(member, wish())
        paused = await control.create(member, wish())
        await control.pausing.pause(member, paused.id, CheckpointKind.MEMORY)
        ended = await control.create(member, wish())
        await control.kill(member, ended.id)
        await control.snapshots.take(member, running.id, "kept", CheckpointKind.MEMORY)
        await control.volumes.create(member, "notes")
        await secrets_in(world.database).create(member, "token", "v", {})
        hook = NewWebhook(
            name="h", url="https://example.com", events=["sandbox.lifecycle.created"], secret="s" * 32
        )
        await webhooks_in(world.database, world.clock).create(member, hook)

    async def left(self) -> dict[str, int]:
        """Count what there is of the team."""
        world, team_id = self.world, self.team.id
        everything = SandboxFilter(team_id=team_id, statuses=frozenset(Status))
        return {
            "sandboxes": await world.store.count_sandboxes(everything),
            "snapshots": len(
                [one for one in await world.snapshots.all_snapshots() if one.team_id == team_id]
            ),
            "volumes": len(await self.control.volumes.list(self.member)),
            "secrets": len(await secrets_in(world.database).list(self.member, after="", limit=100)),
            "webhooks": len(await webhooks_in(world.database, world.clock).list(self.member)),
            "keys": len(await world.api_keys.list_api_keys(team_id, frozenset(KeyKind))),
            "events": len(
                await SqliteEvents(world.database).list_events(EventQuery(team_id=team_id, limit=100))
            ),
        }


@asynccontextmanager
async def office_in(world: World, *, working: bool = True) -> AsyncIterator[Office]:
    async with world.server() as control, asyncio.TaskGroup() as group:
        key = new_key(KeyKind.HOME)
        await access.set_home_key(world.api_keys, world.clock, key, name="home")
        home, keys, teams = await control.authenticate(key), world.keys(), world.teams(control)
        team = await keys.create_team(home, "research")
        _, shown = await keys.create(home, "member", KeyKind.ACCESS_TOKEN, "research")
        work = group.create_task(teams.run()) if working else None
        member = await control.authenticate(shown)
        yield Office(world, control, teams, home, team, member, shown)
        if work is not None:
            work.cancel()


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with office_in(World(tmp_path)) as opened:
        yield opened


async def test_a_team_that_has_something_stays_and_says_what_that_is(office: Office) -> None:
    await office.fill()

    with pytest.raises(FailedPreconditionError, match="2 sandboxes, 1 volume and 1 snapshot"):
        await office.teams.delete(office.home, "research", force=False)

    assert (await office.control.authenticate(office.shown)).team_id == office.team.id
    assert (await office.control.create(office.member, wish())).status is Status.RUNNING


async def test_what_is_no_work_of_anybodys_goes_with_the_team(office: Office) -> None:
    ended = await office.control.create(office.member, wish())
    await office.control.kill(office.member, ended.id)
    await secrets_in(office.world.database).create(office.member, "token", "v", {})

    await office.teams.delete(office.home, office.team.id, force=False)

    assert await office.listed() == ["default"]
    assert set((await office.left()).values()) == {0}


async def test_by_force_all_of_it_goes_and_nothing_of_others(office: Office) -> None:
    await office.fill()
    assert 0 not in (await office.left()).values()
    mine = await office.control.create(office.home, wish())
    await office.control.volumes.create(office.home, "notes")

    await office.teams.delete(office.home, "research", force=True)

    assert await office.listed() == ["default"]
    assert set((await office.left()).values()) == {0}
    with pytest.raises(UnauthenticatedError):
        await office.control.authenticate(office.shown)
    assert office.world.runtime.running() == {mine.id}
    assert (await office.control.get(office.home, mine.id)).status is Status.RUNNING
    assert [one.name for one in await office.control.volumes.list(office.home)] == ["notes"]
    # The name is free again, and means another team.
    again = await office.world.keys().create_team(office.home, "research")
    assert again.id != office.team.id


async def test_only_the_homes_key_changes_teams_and_its_own_team_stays(office: Office) -> None:
    for team in ("research", office.team.id):
        with pytest.raises(PermissionDeniedError):
            await office.teams.delete(office.member, team, force=True)
        with pytest.raises(PermissionDeniedError):
            await office.teams.set_limits(office.member, team, {"max_sandboxes": None})
    for actor, team in ((office.member, "default"), (office.member, "nobody"), (office.home, "nobody")):
        with pytest.raises(NotFoundError):
            await office.teams.delete(actor, team, force=True)
    for team in ("default", DEFAULT_TEAM):
        with pytest.raises(FailedPreconditionError, match="stays"):
            await office.teams.delete(office.home, team, force=True)
    assert await office.listed() == ["default", "research"]


@pytest.mark.parametrize("step", ["start:3", "configure"])
async def test_a_create_under_way_is_ended_with_its_team(office: Office, step: str) -> None:
    office.world.faults.hang(step)
    creating = asyncio.ensure_future(outcome(office.control.create(office.member, wish())))
    await office.world.faults.reached(step)

    await office.teams.delete(office.home, "research", force=True)

    assert isinstance(await creating, Exception)
    assert office.world.runtime.running() == set()
    assert set((await office.left()).values()) == {0}
    assert await office.listed() == ["default"]


async def test_who_was_let_in_before_writes_nothing_afterwards(office: Office) -> None:
    member, control, world = office.member, office.control, office.world
    await office.teams.delete(office.home, "research", force=True)

    for late in (
        control.create(member, wish()),
        control.volumes.create(member, "late"),
        secrets_in(world.database).create(member, "late", "v", {}),
        world.keys().create(member, "late", KeyKind.API_KEY),
    ):
        with pytest.raises(NotFoundError, match="Team"):
            await late

    assert set((await office.left()).values()) == {0}
    assert world.runtime.running() == set()


async def test_a_create_that_waits_for_its_turn_finds_no_team(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with office_in(world, working=False) as office:
        await world.api_keys.begin_deletion(office.team.id, world.clock.now(), force=True)

        with pytest.raises(NotFoundError, match="Team"):
            await office.control.create(office.member, wish())

        assert world.runtime.running() == set()
        with pytest.raises(NotFoundError):
            await office.teams.set_limits(office.home, "research", {"max_sandboxes": 1})


async def test_what_would_not_go_is_told_and_tried_again(office: Office) -> None:
    await office.fill()
    volumes = office.control.volumes
    real, refusals = volumes.delete, [UnavailableError("in use by the kernel")]

    async def delete(actor: Actor, volume_id: str) -> None:
        if refusals:
            raise refusals.pop()
        await real(actor, volume_id)

    volumes.delete = delete  # type: ignore[method-assign]
    with pytest.raises(UnavailableError, match="not gone yet"):
        await office.teams.delete(office.home, "research", force=True)
    assert await office.listed() == ["default", "research"]

    await office.world.clock.slept_until(office.world.clock.now() + RETRY_DELAY)
    office.world.clock.advance(RETRY_DELAY)
    while "research" in await office.listed():
        await asyncio.sleep(0)

    assert await office.listed() == ["default"]


async def test_callers_at_the_same_time_share_the_deletion(office: Office) -> None:
    await office.fill()

    done = await asyncio.gather(
        *(outcome(office.teams.delete(office.home, "research", force=True)) for _ in range(3))
    )

    assert done == [None, None, None]
    assert await office.listed() == ["default"]


async def test_a_caller_who_goes_away_stops_nothing(office: Office) -> None:
    await office.fill()
    gone = asyncio.ensure_future(office.teams.delete(office.home, "research", force=True))
    await asyncio.sleep(0)
    gone.cancel()

    while "research" in await office.listed():
        await asyncio.sleep(0)

    assert set((await office.left()).values()) == {0}


@pytest.mark.parametrize("point", range(1, 40, 2))
async def test_a_server_that_dies_in_a_deletion_leaves_it_to_the_next(tmp_path: Path, point: int) -> None:
    world = World(tmp_path)
    async with office_in(world, working=False) as office:
        await office.fill()
        team = office.team
    points = Points(point, Points.die)
    world.renew(Faults())
    async with world.database:
        await world.api_keys.begin_deletion(team.id, world.clock.now(), force=True)
    world.renew(points)
    world.store = PointedStore(world.store, points)  # type: ignore[assignment]
    await world.database.open()
    try:
        async with world.control() as control:
            first = world.teams(control)
            async with asyncio.TaskGroup() as group:
                work = group.create_task(first.run())
                while not points.dead and len(await world.api_keys.list_teams()) > 1:
                    await asyncio.sleep(0)
                work.cancel()
            points.die()
    except* (Crash, asyncio.CancelledError):
        pass
    finally:
        await world.database.close()

    assert points.count >= point
    world.renew(Faults())
    async with world.server() as control, asyncio.TaskGroup() as group:
        teams = world.teams(control)
        work = group.create_task(teams.run())
        while len(await world.api_keys.list_teams()) > 1:
            await asyncio.sleep(0)
        work.cancel()
        await control.settled()
        assert world.runtime.running() == set()
        assert await world.rows() == {}
        assert list(await world.snapshots.all_snapshots()) == []
        assert await world.checkpoints.names() == set()


def awake(world: World, office: Office) -> SandboxFilter:
    return SandboxFilter(team_id=office.team.id, statuses=frozenset({Status.RUNNING}))


async def test_a_team_has_no_more_sandboxes_awake_than_its_limit(office: Office) -> None:
    control = office.control
    await office.limit(max_sandboxes=2)
    first, second = await control.create(office.member, wish()), await control.create(office.member, wish())

    with pytest.raises(ResourceExhaustedError, match=r"maximum number of concurrent sandboxes \(2\)") as told:
        await control.create(office.member, wish())
    assert told.value.reason is Reason.LIMIT_OF_SANDBOXES
    await control.create(office.home, wish())
    await control.pausing.pause(office.member, first.id, CheckpointKind.MEMORY)
    third = await control.create(office.member, wish())
    with pytest.raises(ResourceExhaustedError, match="concurrent sandboxes"):
        await control.pausing.connect(office.member, first.id, MINUTE)
    await control.kill(office.member, third.id)
    await control.pausing.connect(office.member, first.id, MINUTE)

    found = await office.world.store.list_sandboxes(awake(office.world, office), Page())
    assert {row.id for row in found} == {first.id, second.id}


async def test_creates_at_once_pass_the_limit_one_by_one(office: Office) -> None:
    await office.limit(max_sandboxes=3)

    made = await asyncio.gather(*(outcome(office.control.create(office.member, wish())) for _ in range(8)))

    assert sum(isinstance(one, ResourceExhaustedError) for one in made) == 5
    assert len(office.world.runtime.running()) == 3


@pytest.mark.parametrize(
    ("limit", "size", "text"),
    [
        ({"max_cpus": 0.25}, {}, "0.25 CPUs"),
        ({"max_cpus": 0.75}, {"cpus": 1.0}, "0.75 CPUs"),
        ({"max_memory_bytes": 128 * MIB}, {"memory_bytes": 129 * MIB}, "128 MiB"),
    ],
)
async def test_a_sandbox_is_no_larger_than_its_team_may_have(
    office: Office, limit: dict[str, Any], size: dict[str, Any], text: str
) -> None:
    await office.limit(**limit)
    asked: CreateSandbox = wish(limits=LimitsOverride(**size))

    with pytest.raises(InvalidArgumentError, match=text):
        await office.control.create(office.member, asked)

    await office.control.create(office.home, asked)
    await office.limit(**dict.fromkeys(limit))
    await office.control.create(office.member, asked)


async def test_limits_change_one_by_one_and_none_is_the_servers_again(office: Office) -> None:
    await office.limit(max_sandboxes=0, requests_per_second=7)
    await office.limit(max_sandboxes=None, max_cpus=0.5)

    assert office.member.limits == TeamLimits(requests_per_second=7, max_cpus=0.5)
    assert office.home.limits == TeamLimits()


@pytest.mark.parametrize(
    "changes",
    [
        {"max_sandboxes": -1},
        {"max_sandboxes": LIMITS.max_sandboxes + 1},
        {"max_cpus": 0},
        {"max_cpus": LIMITS.max_cpus + 1},
        {"max_cpus": float("nan")},
        {"max_memory_bytes": 1},
        {"max_memory_bytes": LIMITS.max_memory_bytes + 1},
        {"requests_per_second": 0},
    ],
)
async def test_limits_that_nobody_has_are_refused(office: Office, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        await office.teams.set_limits(office.home, "research", changes)

    assert (await office.world.api_keys.get_team(office.team.id)).limits == TeamLimits()
