"""When deliveries are tried, and who gets a turn, by a clock that is turned by hand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from contract.test_snapshot_store import making
from contract.test_store import make
from fakes.events import SECRET, sandboxes_in, snapshots_in, webhooks_in
from fakes.teams import add_teams
from typing_extensions import override

from atoll.server.control.requests import Actor
from atoll.server.control.watching.delivering import Delivering
from atoll.server.control.watching.webhooks import NewWebhook, WebhookLimits
from atoll.server.domain.events import EventType
from atoll.server.domain.ids import TeamId
from atoll.server.domain.sandbox import Status
from atoll.server.domain.webhooks import Delivery, DeliveryStatus, Webhook
from atoll.server.ports.webhooks import Courier, Receipt
from atoll.server.runtimes.fake.clock import FakeClock
from atoll.server.stores.database import Database
from atoll.server.stores.deliveries import SqliteDeliveries

TEAM = TeamId("team")
ACTOR = Actor(team_id=TEAM, key_id="k", key_name="k")


class Answering(Courier):
    """Answers as a test says, by URL; one that is held waits until it is let go."""

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self.holds: dict[str, asyncio.Event] = {}
        self.posted: list[str] = []
        self.underway: Counter[str] = Counter()
        self.most_underway: Counter[str] = Counter()
        self.changed = asyncio.Condition()

    @override
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        self.underway[url] += 1
        self.most_underway[url] = max(self.most_underway[url], self.underway[url])
        self.posted.append(url)
        async with self.changed:
            self.changed.notify_all()
        try:
            if url in self.holds:
                await self.holds[url].wait()
            return Receipt(status=self.statuses.get(url, 200), problem="", duration_ms=1)
        finally:
            self.underway[url] -= 1

    async def posts(self, url: str, number: int) -> None:
        """Return when so many were posted."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: self.posted.count(url) >= number)


class Office:
    """Rows, webhooks and their worker."""

    def __init__(self, database: Database, limits: WebhookLimits) -> None:
        self.clock, self.courier = FakeClock(), Answering()
        self.store = SqliteDeliveries(database, secret=SECRET)
        self.worker = Delivering(store=self.store, courier=self.courier, clock=self.clock, limits=limits)
        self.hooks = webhooks_in(database, self.clock, WebhookLimits(most=1000))
        self.rows = sandboxes_in(database, self.clock, called=self.worker.call)
        self.snapshots = snapshots_in(database, self.clock, called=self.worker.call)

    async def hook(
        self, name: str, team_id: TeamId = TEAM, *, wants: EventType = EventType.CREATED
    ) -> Webhook:
        wish = NewWebhook(name=name, url=f"https://{name}.example/", events=[wants.value], secret="s")
        return await self.hooks.create(replace(ACTOR, team_id=team_id), wish)

    async def create(self, number: int = 1, team_id: TeamId = TEAM) -> None:
        for _ in range(number):
            row = make(status=Status.CREATING, team_id=team_id)
            await self.rows.add_sandbox(row)
            await self.rows.replace_sandbox(row, replace(row, status=Status.RUNNING))

    async def log(self, hook: Webhook) -> list[Delivery]:
        return list(await self.hooks.deliveries(ACTOR, hook.id, limit=100, oldest_first=True))


LIMITS = WebhookLimits(attempts=6, retry_delay=timedelta(seconds=10), retry_delay_most=timedelta(seconds=60))


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    async with Database(None) as opened:
        await add_teams(opened, TEAM, "other")
        yield opened


async def test_pauses_double_to_a_bound_and_then_it_is_given_up(database: Database) -> None:
    office = Office(database, LIMITS)
    hook = await office.hook("bad")
    office.courier.statuses[hook.url] = 500
    pauses: list[float] = []

    async with asyncio.TaskGroup() as group:
        worker = group.create_task(office.worker.run())
        await office.create()
        for attempt in range(1, 6):
            await office.courier.posts(hook.url, attempt)
            while (line := (await office.log(hook))[0]).attempts < attempt:
                await asyncio.sleep(0)
            assert line.due is not None
            pauses.append((line.due - office.clock.now()).total_seconds())
            await office.clock.slept_until(line.due)
            assert office.courier.posted.count(hook.url) == attempt
            office.clock.advance(line.due - office.clock.now())
        await office.courier.posts(hook.url, 6)
        while (line := (await office.log(hook))[0]).status is DeliveryStatus.PENDING:
            await asyncio.sleep(0)
        worker.cancel()

    assert line.status is DeliveryStatus.FAILED
    assert line.attempts == 6
    # Half a pause of chance on each, none beyond the longest.
    for pause, least in zip(pauses, (10, 20, 40, 60, 60), strict=True):
        assert least <= pause <= min(least + 5, 60)


async def test_who_wants_snapshots_is_told_of_each(database: Database) -> None:
    office = Office(database, LIMITS)
    hook = await office.hook("snapshots", wants=EventType.CHECKPOINTED)
    await office.hook("creates")
    taken = making(team_id=TEAM)
    await office.snapshots.add_snapshot(taken, most=9)

    async with asyncio.TaskGroup() as group:
        worker = group.create_task(office.worker.run())
        await office.snapshots.finish_snapshot(taken.id, None, 1)
        await office.courier.posts(hook.url, 1)
        worker.cancel()

    assert office.courier.posted == [hook.url]


async def test_webhooks_that_are_always_behind_do_not_take_all_the_turns(database: Database) -> None:
    office = Office(database, replace(LIMITS, webhooks_at_once=2, at_once=1))
    slow = [await office.hook(f"slow{n}") for n in range(4)]
    for hook in slow:
        office.courier.holds[hook.url] = asyncio.Event()
    await office.create(20)

    async with asyncio.TaskGroup() as group:
        worker = group.create_task(office.worker.run())
        for hook in slow[:2]:
            await office.courier.posts(hook.url, 1)
        quick = await office.hook("quick", TeamId("other"))
        office.clock.advance(timedelta(seconds=1))
        await office.create(team_id=TeamId("other"))
        # One turn of each slow one, two at a time: then the quick one's, though others waited longer.
        for hook in slow:
            office.courier.holds[hook.url].set()
            office.courier.holds[hook.url] = asyncio.Event()
        for hook in slow[2:]:
            await office.courier.posts(hook.url, 1)
            office.courier.holds[hook.url].set()
        await office.courier.posts(quick.url, 1)
        worker.cancel()

    assert all(office.courier.posted.count(hook.url) <= 2 for hook in slow)


async def test_one_webhook_has_so_many_at_once_and_one_sandbox_one(database: Database) -> None:
    office = Office(database, replace(LIMITS, at_once=3))
    hook = await office.hook("slow")
    office.courier.holds[hook.url] = asyncio.Event()
    await office.create(10)

    async with asyncio.TaskGroup() as group:
        worker = group.create_task(office.worker.run())
        await office.courier.posts(hook.url, 3)
        for _ in range(50):
            await asyncio.sleep(0)
        assert office.courier.underway[hook.url] == 3
        office.courier.holds[hook.url].set()
        await office.courier.posts(hook.url, 10)
        worker.cancel()

    assert office.courier.most_underway[hook.url] == 3


async def test_a_worker_with_nothing_to_do_looks_at_no_row(database: Database) -> None:
    office = Office(database, LIMITS)
    looks = 0
    real = office.store.waiting

    async def counted() -> object:
        nonlocal looks
        looks += 1
        return await real()

    office.store.waiting = counted  # type: ignore[method-assign, assignment]
    async with asyncio.TaskGroup() as group:
        worker = group.create_task(office.worker.run())
        for _ in range(20):
            office.clock.advance(timedelta(hours=1))
            await asyncio.sleep(0)
        worker.cancel()

    assert looks == 1
    assert office.clock.sleepers == []


async def test_rows_that_cannot_be_read_for_a_while_end_nothing(database: Database) -> None:
    office = Office(database, LIMITS)
    hook = await office.hook("good")
    real, failures = office.store.waiting, [3]

    async def failing() -> object:
        if failures[0]:
            failures[0] -= 1
            with database.transaction(writes=False) as connection:
                connection.exec_driver_sql("SELECT * FROM nothing")
        return await real()

    office.store.waiting = failing  # type: ignore[method-assign, assignment]
    await office.create()
    async with asyncio.TaskGroup() as group:
        worker = group.create_task(office.worker.run())
        for _ in range(3):
            until = office.clock.now() + timedelta(seconds=5)
            await office.clock.slept_until(until)
            office.clock.advance(timedelta(seconds=5))
        await office.courier.posts(hook.url, 1)
        worker.cancel()

    assert failures == [0]
