"""Routes of the E2B dialect about teams, API keys and access tokens."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b.form import render
from atoll.server.api.gate import presented_key
from atoll.server.control.owned.keys import Keys
from atoll.server.domain import keys as domain
from atoll.server.domain.keys import DEFAULT_TEAM, KeyKind

_KEYS = frozenset({KeyKind.API_KEY})
_TOKENS = frozenset({KeyKind.ACCESS_TOKEN})


class NewKey(BaseModel):
    """A key or token to be made, or another name."""

    model_config = ConfigDict(extra="ignore")

    # Control has the rule; this keeps absurd names out of its messages.
    name: Annotated[str, StringConstraints(max_length=1024)]


class Mask(BaseModel):
    """What is shown of a key."""

    prefix: str
    valueLength: int
    maskedValuePrefix: str
    maskedValueSuffix: str


class Team(BaseModel):
    """A team; with an API key, the key it was asked with."""

    teamID: str
    name: str
    apiKey: str
    isDefault: bool


class TeamApiKey(BaseModel):
    """An API key; Atoll has no users, so nobody is named as its maker."""

    id: str
    name: str
    mask: Mask
    createdAt: datetime
    createdBy: None = None
    lastUsed: datetime | None


class CreatedTeamApiKey(TeamApiKey):
    """An API key, this once with the key itself."""

    key: str


class CreatedAccessToken(BaseModel):
    """An access token, this once with the token itself."""

    id: str
    name: str
    token: str
    mask: Mask
    createdAt: datetime


def router(keys: Keys) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    @routes.get("/teams")
    async def teams(actor: Caller, request: Request) -> list[Team]:
        # Keys are not kept: the one that can be shown is the caller's. A token is none.
        shown = presented_key(request.headers) if actor.kind is not KeyKind.ACCESS_TOKEN else None
        return [
            Team(
                teamID=team.id,
                name=team.name,
                apiKey=(shown or "") if team.id == actor.team_id else "",
                isDefault=team.id == (DEFAULT_TEAM if actor.kind is KeyKind.HOME else actor.team_id),
            )
            for team in await keys.teams(actor)
            if team.deleting_since is None
        ]

    @routes.get("/api-keys")
    async def list_keys(actor: Caller) -> list[TeamApiKey]:
        return [_shown(key) for key in await keys.list(actor, kinds=_KEYS)]

    @routes.post("/api-keys", status_code=201)
    async def create_key(actor: Caller, body: NewKey) -> CreatedTeamApiKey:
        made, key = await keys.create(actor, body.name, KeyKind.API_KEY)
        return CreatedTeamApiKey(**_shown(made).model_dump(), key=key)

    @routes.patch("/api-keys/{key_id}", response_class=Response)
    async def rename_key(actor: Caller, key_id: str, body: NewKey) -> None:
        await keys.rename(actor, key_id, body.name)

    @routes.delete("/api-keys/{key_id}", status_code=204, response_class=Response)
    async def delete_key(actor: Caller, key_id: str) -> None:
        await keys.revoke(actor, key_id, _KEYS)

    @routes.post("/access-tokens", status_code=201)
    async def create_token(actor: Caller, body: NewKey) -> CreatedAccessToken:
        made, token = await keys.create(actor, body.name, KeyKind.ACCESS_TOKEN)
        return CreatedAccessToken(
            id=made.id, name=made.name, token=token, mask=_mask(made.mask), createdAt=made.created_at
        )

    @routes.delete("/access-tokens/{token_id}", status_code=204, response_class=Response)
    async def delete_token(actor: Caller, token_id: str) -> None:
        await keys.revoke(actor, token_id, _TOKENS)

    return routes


def _shown(key: domain.ApiKey) -> TeamApiKey:
    return TeamApiKey(
        id=key.id,
        name=key.name,
        mask=_mask(key.mask),
        createdAt=key.created_at,
        lastUsed=key.last_used_at,
    )


def _mask(mask: domain.Mask) -> Mask:
    return Mask(
        prefix=mask.prefix,
        valueLength=mask.length,
        maskedValuePrefix=mask.first,
        maskedValueSuffix=mask.last,
    )
