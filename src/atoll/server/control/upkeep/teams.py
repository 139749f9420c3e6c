"""
Limits of single teams, and their deletion.

A deletion is written first: the team's keys are revoked, and nothing new is written for it from then on (the
stores ask in the transaction that writes). Then goes what it has, by the same verbs with which its callers
would end one after the other, and its row at last. What an earlier server left half done is taken up at the
start; what fails is tried again until it goes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from atoll.server.control.lifecycle.snapshots import Snapshots
from atoll.server.control.limits import ControlLimits
from atoll.server.control.owned.secrets import MOST_LISTED, Secrets
from atoll.server.control.owned.volumes import Volumes
from atoll.server.control.requests import Actor
from atoll.server.control.rows import checking
from atoll.server.control.rows.room import ALIVE
from atoll.server.control.watching.webhooks import Webhooks
from atoll.server.control.work.alarm import Alarm
from atoll.server.control.work.tasks import retrieve
from atoll.server.domain.errors import (
    AtollError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import DEFAULT_TEAM, KeyKind, Team
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.ports.clock import Clock
from atoll.server.ports.events import EventStore
from atoll.server.ports.snapshots import SnapshotStore
from atoll.server.ports.store import MOST_ROWS, Page, SandboxFilter, Store

log = structlog.get_logger(__name__)

# After something would not go, wait so long before the next try.
RETRY_DELAY = timedelta(seconds=5)
# A snapshot that is being written is taken back by who writes it; looked for so often, and so many times.
LOOK_AGAIN = timedelta(milliseconds=100)
LOOKS = 100

Kill = Callable[[Actor, str], Awaitable[Sandbox]]


@dataclass(frozen=True, kw_only=True)
class Belongings:
    """
    What teams have, and what ends it.

    Attributes:
        store: the rows of sandboxes.
        kill: ends one.
        snapshots: ends snapshots; ``snapshot_rows``: finds them, those that are being written too.
        events: what happened to them.
    """

    store: Store
    kill: Kill
    snapshots: Snapshots
    snapshot_rows: SnapshotStore
    volumes: Volumes
    secrets: Secrets
    webhooks: Webhooks
    events: EventStore


class Teams:
    """Changes the limits of teams, and deletes teams."""

    def __init__(self, *, keys: ApiKeys, belongings: Belongings, clock: Clock, limits: ControlLimits) -> None:
        self._keys = keys
        self._all = belongings
        self._clock = clock
        self._limits = limits
        self._alarm = Alarm("deletion of teams", clock, self._step)
        # When the next try is, of those that would not go.
        self._again: dict[TeamId, datetime] = {}
        # For who waits: done with the deletion, or with an attempt that failed.
        self._outcomes: dict[TeamId, asyncio.Future[None]] = {}

    async def set_limits(self, actor: Actor, untrusted_team: str, changes: Mapping[str, Any]) -> Team:
        """
        Change what is given of a team's limits; None: as the server has it for everybody.

        Args:
            actor: who asks.
            untrusted_team: whose, by id or name.
            changes: by the names of ``TeamLimits``.

        Raises:
            PermissionDeniedError: not with this key.
            NotFoundError: no such team.
            InvalidArgumentError: a value that the server does not allow anybody.
        """
        team = await self._find(actor, untrusted_team)
        wished = replace(team.limits, **changes)
        checking.check_team_limits(wished, self._limits)
        changed = await self._keys.limit_team(team.id, wished)
        log.info("team limited", team_id=team.id, **asdict(wished))
        return changed

    async def delete(self, actor: Actor, untrusted_team: str, *, force: bool) -> None:
        """
        Delete a team with its keys, secrets, webhooks and events; return when nothing is left of it.

        It goes on if the caller goes away. A team that is being deleted is waited for.

        Args:
            actor: who asks.
            untrusted_team: which one, by id or name.
            force: end its sandboxes, and delete its volumes and snapshots, too.

        Raises:
            PermissionDeniedError: not with this key.
            NotFoundError: no such team.
            FailedPreconditionError: it has sandboxes, volumes or snapshots; or it is the home's own.
            UnavailableError: something would not go; it is tried again behind this call.
        """
        team = await self._find(actor, untrusted_team)
        if team.id == DEFAULT_TEAM:
            raise FailedPreconditionError("This is the team of the home's own key, and stays")
        now = self._clock.now()
        await self._keys.begin_deletion(team.id, now, force=force)
        log.info("deletion of a team begun", team_id=team.id, force=force)
        outcome = self._outcomes.get(team.id)
        if outcome is None:
            outcome = self._outcomes[team.id] = asyncio.get_running_loop().create_future()
            outcome.add_done_callback(retrieve)
        self._again.pop(team.id, None)
        self._alarm.appeared(now)
        await asyncio.shield(outcome)

    async def run(self) -> None:
        """Delete what is to be deleted, also what an earlier server left, for ever."""
        try:
            await self._alarm.run()
        finally:
            for team_id in list(self._outcomes):
                self._tell(team_id, UnavailableError("The server is stopping; it goes on at the next start"))

    async def _step(self) -> datetime | None:
        now = self._clock.now()
        going = [team for team in await self._keys.list_teams() if team.deleting_since is not None]
        for team in going:
            if self._again.get(team.id, now) > now:
                continue
            try:
                await self._delete(team)
            except Exception as error:
                # Whatever it was: others go on, and this one is tried again.
                log.warning(
                    "team not deleted yet",
                    team_id=team.id,
                    error=str(error) or type(error).__name__,
                    exc_info=not isinstance(error, AtollError),
                )
                self._again[team.id] = self._clock.now() + RETRY_DELAY
                self._tell(team.id, _not_yet(team, error))
            else:
                self._again.pop(team.id, None)
                self._tell(team.id, None)
        return min(self._again.values(), default=None)

    async def _delete(self, team: Team) -> None:
        actor = Actor(team_id=team.id, key_id="", key_name="the deletion of its team", kind=KeyKind.HOME)
        await self._kill_all(actor)
        await self._delete_snapshots(actor)
        for volume in await self._all.volumes.list(actor):
            await self._all.volumes.delete(actor, volume.id)
        while found := await self._all.secrets.list(actor, after="", limit=MOST_LISTED):
            for secret in found:
                await self._all.secrets.delete(actor, secret.id)
        for webhook in await self._all.webhooks.list(actor):
            await self._all.webhooks.delete(actor, webhook.id)
        await self._forget(team.id)
        await self._keys.end_deletion(team.id)
        log.info("team deleted", team_id=team.id)

    async def _kill_all(self, actor: Actor) -> None:
        alive = SandboxFilter(team_id=actor.team_id, statuses=ALIVE)
        while rows := await self._all.store.list_sandboxes(alive, Page(limit=MOST_ROWS)):
            # Some fail, others go: the first error is told when all have been tried.
            ended = await asyncio.gather(
                *(self._all.kill(actor, row.id) for row in rows), return_exceptions=True
            )
            for problem in ended:
                # Gone meanwhile: all the better.
                if isinstance(problem, BaseException) and not isinstance(problem, NotFoundError):
                    raise problem
            await asyncio.sleep(0)

    async def _delete_snapshots(self, actor: Actor) -> None:
        for _ in range(LOOKS):
            rows = await self._all.snapshot_rows.all_snapshots()
            ours = [row for row in rows if row.team_id == actor.team_id]
            if not ours:
                return
            deleted = [await self._all.snapshots.delete(actor, row.id) for row in ours]
            if not all(deleted):
                await self._clock.sleep_until(self._clock.now() + LOOK_AGAIN)
        raise UnavailableError("Snapshots are still being written")

    async def _forget(self, team_id: TeamId) -> None:
        most = max(self._limits.forgotten_at_once, 1)
        store, events = self._all.store, self._all.events
        await _until_none(lambda: store.forget_sandboxes(ended_before=None, most=most, team_id=team_id))
        await _until_none(lambda: events.forget_excess(team_id, keep=0, most=most))

    async def _find(self, actor: Actor, untrusted_team: str) -> Team:
        """Find a team for who may change it; who may not hears of others' teams that there is none."""
        home = actor.kind is KeyKind.HOME
        teams = await self._keys.list_teams() if home else [await self._keys.get_team(actor.team_id)]
        for team in teams:
            if untrusted_team in (team.id, team.name):
                if not home:
                    raise PermissionDeniedError(
                        "Teams are changed with the home's own key", resolution="'atoll env' prints it."
                    )
                return team
        raise NotFoundError(f"Team {untrusted_team[:64]!a} not found")

    def _tell(self, team_id: TeamId, error: AtollError | None) -> None:
        outcome = self._outcomes.pop(team_id, None)
        if outcome is None or outcome.done():
            return
        if error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)


def _not_yet(team: Team, error: Exception) -> AtollError:
    failure = UnavailableError(
        f"Team {team.name!a} is not gone yet",
        details=str(error) or type(error).__name__,
        resolution="The server keeps trying; see its log.",
    )
    failure.__cause__ = error
    return failure


async def _until_none(step: Callable[[], Awaitable[int]]) -> None:
    """Do a few at a time: the store's calls never yield, and keep everything else waiting."""
    number = await step()
    while number:
        await asyncio.sleep(0)
        number = await step()
