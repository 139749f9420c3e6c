"""Routes of the E2B dialect about secrets; no answer holds a value."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from atoll.server.api.cursor import decode_name_cursor, encode_name_cursor, last_before_more
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b.form import render
from atoll.server.api.fields import Texts
from atoll.server.control.owned.secrets import MOST_LISTED, Secrets
from atoll.server.domain import secret as domain
from atoll.server.domain.errors import NotFoundError


class SecretUpdate(BaseModel):
    """Another value of a secret."""

    model_config = ConfigDict(extra="forbid")

    # repr=False: a value must not get into a log by way of a model's text.
    value: str = Field(repr=False)
    metadata: Texts | None = None


class NewSecret(SecretUpdate):
    """A secret."""

    name: str


class Secret(BaseModel):
    """What is known of a secret."""

    secretID: str
    name: str
    currentVersion: int
    metadata: dict[str, str]
    createdAt: datetime
    updatedAt: datetime


def router(secrets: Secrets) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    @routes.get("/secrets")
    async def list_secrets(
        actor: Caller,
        response: Response,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
        nextToken: Annotated[str | None, Query()] = None,
    ) -> list[Secret]:
        after = decode_name_cursor(nextToken) if nextToken else ""
        found = await secrets.list(actor, after=after, limit=limit)
        last = await last_before_more(found, limit, lambda one: secrets.list(actor, after=one.name, limit=1))
        if last is not None:
            response.headers["X-Next-Token"] = encode_name_cursor(last.name)
        return [_shown(secret) for secret in found]

    @routes.post("/secrets", status_code=201)
    async def create(actor: Caller, body: NewSecret) -> Secret:
        return _shown(await secrets.create(actor, body.name, body.value, body.metadata or {}))

    @routes.get("/secrets/{key}")
    async def get(actor: Caller, key: str) -> Secret:
        return _shown(await secrets.get(actor, key))

    @routes.post("/secrets/{key}")
    async def update(actor: Caller, key: str, body: SecretUpdate) -> Secret:
        return _shown(await secrets.update(actor, key, body.value, body.metadata))

    @routes.delete("/secrets/{key}", status_code=204, response_class=Response)
    async def delete(actor: Caller, key: str) -> None:
        if not await secrets.delete(actor, key):
            raise NotFoundError(f"Secret {key[:64]!a} not found")

    return routes


def _shown(secret: domain.Secret) -> Secret:
    return Secret(
        secretID=secret.id,
        name=secret.name,
        currentVersion=secret.version,
        metadata=dict(secret.metadata),
        createdAt=secret.created_at,
        updatedAt=secret.updated_at,
    )
