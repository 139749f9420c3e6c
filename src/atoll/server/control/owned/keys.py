"""Teams and their keys: who may make which, and for whom."""

from collections.abc import Sequence

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor
from atoll.server.domain import keys as rules
from atoll.server.domain.errors import FailedPreconditionError, NotFoundError, PermissionDeniedError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import ApiKey, KeyKind, Team
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.ports.clock import Clock

log = structlog.get_logger(__name__)

# What is made and revoked here.
GIVEN = frozenset({KeyKind.API_KEY, KeyKind.ACCESS_TOKEN})


class Keys:
    """Creates and lists teams; creates, lists, renames and revokes keys."""

    def __init__(self, *, keys: ApiKeys, clock: Clock, limits: ControlLimits) -> None:
        self._keys = keys
        self._clock = clock
        self._limits = limits

    async def teams(self, actor: Actor) -> Sequence[Team]:
        """List the teams that the actor may act for, oldest first: with the home's key, all."""
        if actor.kind is KeyKind.HOME:
            return await self._keys.list_teams()
        return [await self._keys.get_team(actor.team_id)]

    async def create_team(self, actor: Actor, untrusted_name: str) -> Team:
        """
        Create a team; it has no keys.

        Raises:
            PermissionDeniedError: not with this key.
            InvalidArgumentError: the name is outside its bounds.
            AlreadyExistsError: there is one of this name.
            ResourceExhaustedError: there are as many as there may be.
        """
        if actor.kind is not KeyKind.HOME:
            raise PermissionDeniedError(
                "Teams are created with the home's own key", resolution="'atoll env' prints it."
            )
        name = rules.check_name(untrusted_name, "a team")
        team = Team(id=rules.new_team_id(), name=name, created_at=self._clock.now())
        await self._keys.add_team(team, most=self._limits.max_teams)
        log.info("team created", team_id=team.id)
        return team

    async def create(
        self, actor: Actor, untrusted_name: str, kind: KeyKind, untrusted_team: str | None = None
    ) -> tuple[ApiKey, str]:
        """
        Make a key.

        Args:
            actor: who asks.
            untrusted_name: of the key.
            kind: an API key or an access token.
            untrusted_team: for whom, by id or name; None: the actor's own.

        Returns:
            What is kept of it, and the key itself, which nobody can read again.

        Raises:
            PermissionDeniedError: not with this key.
            InvalidArgumentError: the name is outside its bounds.
            NotFoundError: no such team, or somebody else's.
            ResourceExhaustedError: the team has as many as it may.
        """
        _check_may(actor)
        assert kind in GIVEN
        name = rules.check_name(untrusted_name, "a key")
        team_id = await self.find_team(actor, untrusted_team)
        key = rules.new_key(kind)
        made = rules.make_key(key, kind, team_id, name, self._clock.now())
        await self._keys.add_api_key(made, most=self._limits.max_keys)
        log.info("key created", key_id=made.id, kind=kind.value, team_id=team_id, by=actor.key_id)
        return made, key

    async def list(
        self, actor: Actor, untrusted_team: str | None = None, kinds: frozenset[KeyKind] = GIVEN
    ) -> Sequence[ApiKey]:
        """
        List a team's keys, oldest first.

        Raises:
            PermissionDeniedError: not with this key.
            NotFoundError: no such team, or somebody else's.
        """
        _check_may(actor)
        return await self._keys.list_api_keys(await self.find_team(actor, untrusted_team), kinds)

    async def rename(self, actor: Actor, untrusted_id: str, untrusted_name: str) -> None:
        """
        Give a key another name.

        Raises:
            PermissionDeniedError: not with this key.
            InvalidArgumentError: the name is outside its bounds.
            NotFoundError: no such key, or somebody else's.
            FailedPreconditionError: it is the home's own.
        """
        name = rules.check_name(untrusted_name, "a key")
        key = await self._given(actor, untrusted_id, GIVEN)
        await self._keys.rename_api_key(key.id, name)

    async def revoke(self, actor: Actor, untrusted_id: str, kinds: frozenset[KeyKind] = GIVEN) -> None:
        """
        Take a key back; it is refused from now on. What it started lives on.

        Raises:
            PermissionDeniedError: not with this key.
            NotFoundError: no such key of these kinds, or somebody else's.
            FailedPreconditionError: it is the home's own.
        """
        key = await self._given(actor, untrusted_id, kinds)
        await self._keys.drop_api_key(key.id)
        log.info("key revoked", key_id=key.id, team_id=key.team_id, by=actor.key_id)

    async def _given(self, actor: Actor, untrusted_id: str, kinds: frozenset[KeyKind]) -> ApiKey:
        _check_may(actor)
        key = await self._keys.get_api_key(untrusted_id)
        if actor.kind is KeyKind.HOME and key.kind is KeyKind.HOME:
            raise FailedPreconditionError(
                "This is the home's own key",
                resolution="Replace the file 'key' in the home and start the server again.",
            )
        theirs = actor.kind is not KeyKind.HOME and key.team_id != actor.team_id
        if theirs or key.kind not in kinds:
            raise NotFoundError(f"Key {untrusted_id[:64]!a} not found")
        return key

    async def find_team(self, actor: Actor, untrusted: str | None) -> TeamId:
        """
        Find a team that the actor may act for, by id or name; None: its own.

        Raises:
            NotFoundError: no such team, or somebody else's.
        """
        if untrusted is None:
            return actor.team_id
        for team in await self.teams(actor):
            if untrusted in (team.id, team.name):
                return team.id
        raise NotFoundError(f"Team {untrusted[:64]!a} not found")


def _check_may(actor: Actor) -> None:
    if actor.kind is KeyKind.API_KEY:
        raise PermissionDeniedError(
            "An API key makes and sees no keys: show an access token",
            resolution="'atoll key create --access-token NAME' on the server makes one.",
        )
