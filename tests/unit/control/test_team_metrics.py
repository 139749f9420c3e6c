"""Those who ask for teams' metrics at once take turns: reading many events takes the server's time."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from fakes.events import team_metrics_in
from fakes.teams import add_teams
from fakes.world import ALICE, World

from atoll.server.control.service import Control
from atoll.server.control.watching.team_metrics import ASKED_AT_ONCE
from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import KeyKind
from atoll.server.domain.team_history import TeamHistory, Turn
from atoll.server.stores.database import Database
from atoll.server.stores.events import SqliteEvents

OPERATOR = replace(ALICE, kind=KeyKind.HOME)


class HeldEvents(SqliteEvents):
    """Lets nobody read until it may, and counts who wants to."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.may = asyncio.Event()
        self.reading = 0
        self.most = 0

    async def list_turns(self, team_id: TeamId, *, before: int | None, limit: int) -> Sequence[Turn]:
        self.reading += 1
        self.most = max(self.most, self.reading)
        await self.may.wait()
        self.reading -= 1
        return await super().list_turns(team_id, before=before, limit=limit)


async def refused(asking: Coroutine[Any, Any, TeamHistory | None]) -> bool:
    try:
        await asking
    except UnavailableError:
        return True
    return False


async def test_events_are_read_for_one_call_at_a_time_and_a_team_has_so_many_waiting(
    world: World, control: Control
) -> None:
    await add_teams(world.database, "greedy", "other")
    events = HeldEvents(world.database)
    metrics = team_metrics_in(world.database, world.keys(), world.clock, event_store=events)

    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        greedy = [
            group.create_task(refused(metrics.history(OPERATOR, "greedy"))) for _ in range(ASKED_AT_ONCE + 1)
        ]
        done, _ = await asyncio.wait(greedy, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [True]
        other = group.create_task(refused(metrics.history(OPERATOR, "other")))
        events.may.set()

    assert sum(task.result() for task in greedy) == 1
    assert not other.result()
    assert events.most == 1
    assert not await refused(metrics.history(OPERATOR, "greedy"))
