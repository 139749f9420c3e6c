"""Calls of our own API about teams and their keys."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.fields import MOST_NAME_CHARACTERS
from atoll.server.api.rest import models
from atoll.server.api.rest.form import problems, render
from atoll.server.control.owned.keys import Keys
from atoll.server.control.upkeep.teams import Teams
from atoll.server.domain import keys as domain
from atoll.server.domain.keys import KeyKind

_TeamQuery = Annotated[
    str | None,
    Query(max_length=MOST_NAME_CHARACTERS, description="Id or name; default: the caller's own."),
]


_TeamPath = Annotated[
    str, Path(max_length=MOST_NAME_CHARACTERS, description="Id or name.", examples=["research"])
]


def router(keys: Keys, teams: Teams) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1", tags=["teams"], route_class=route_class(render))

    @routes.get("/teams", summary="List teams", responses=problems())
    async def list_teams(actor: Caller) -> list[models.Team]:
        """With the home's own key: all; else the one that the key belongs to."""
        return [_team(team) for team in await keys.teams(actor)]

    @routes.post("/teams", status_code=201, summary="Create a team", responses=problems(400, 403, 409, 429))
    async def create_team(actor: Caller, wish: models.TeamWish) -> models.Team:
        """Only with the home's own key. A new team has no keys."""
        return _team(await keys.create_team(actor, wish.name))

    @routes.patch("/teams/{team:path}", summary="Change a team's limits", responses=problems(400, 403, 404))
    async def change_team(actor: Caller, team: _TeamPath, change: models.TeamChange) -> models.Team:
        """Only with the home's own key. A limit holds for what is begun from then on."""
        return _team(await teams.set_limits(actor, team, change.limits.model_dump(exclude_unset=True)))

    @routes.delete(
        "/teams/{team:path}",
        status_code=204,
        response_class=Response,
        summary="Delete a team",
        responses=problems(400, 403, 404, 409, 503, 504),
    )
    async def delete_team(
        actor: Caller,
        team: _TeamPath,
        force: Annotated[
            bool, Query(description="End its sandboxes and delete its volumes and snapshots, too.")
        ] = False,
    ) -> None:
        """
        Only with the home's own key. Its keys, secrets, webhooks and events go with it. One that has
        sandboxes, volumes or snapshots stays, unless it is forced.
        """
        await teams.delete(actor, team, force=force)

    @routes.get("/keys", summary="List keys", responses=problems(403, 404))
    async def list_keys(actor: Caller, team: _TeamQuery = None) -> list[models.Key]:
        """With the home's own key or an access token; the keys themselves are not shown."""
        return [_key(key) for key in await keys.list(actor, team)]

    @routes.post("/keys", status_code=201, summary="Create a key", responses=problems(400, 403, 404, 429))
    async def create_key(actor: Caller, wish: models.KeyWish) -> models.NewKey:
        """The answer holds the key; nobody can read it again."""
        made, key = await keys.create(actor, wish.name, KeyKind(wish.kind), wish.team)
        return models.NewKey(**_key(made).model_dump(), key=key)

    @routes.delete(
        "/keys/{key_id}",
        status_code=204,
        response_class=Response,
        summary="Revoke a key",
        responses=problems(403, 404, 409),
    )
    async def revoke_key(actor: Caller, key_id: str) -> None:
        """It is refused at once; what it started lives on."""
        await keys.revoke(actor, key_id)

    return routes


def _team(team: domain.Team) -> models.Team:
    return models.Team(
        id=team.id,
        name=team.name,
        created_at=team.created_at,
        limits=models.TeamLimits(**asdict(team.limits)),
        deleting=team.deleting_since is not None,
    )


def _key(key: domain.ApiKey) -> models.Key:
    return models.Key(
        id=key.id,
        team_id=key.team_id,
        name=key.name,
        kind=key.kind.value,
        hint=f"{key.mask.prefix}{key.mask.first}...{key.mask.last}",
        created_at=key.created_at,
        last_used_at=key.last_used_at,
    )
