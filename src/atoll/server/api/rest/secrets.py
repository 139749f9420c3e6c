"""Calls of our own API about secrets; no answer holds a value."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from atoll.server.api.cursor import decode_name_cursor, encode_name_cursor, last_before_more
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.fields import Texts
from atoll.server.api.rest.form import problems, render
from atoll.server.api.rest.models import Closed
from atoll.server.control.owned.secrets import MOST_LISTED, Secrets
from atoll.server.domain import secret as domain
from atoll.server.domain.errors import NotFoundError

Reference = Annotated[str, Path(description="The secret's name, or its id.", examples=["example"])]


class SecretChange(Closed):
    """Another value of a secret."""

    # repr=False: a value must not get into a log by way of a model's text.
    value: str = Field(repr=False, description="At most 64 KiB of UTF-8. No call returns it.")
    metadata: Texts | None = Field(default=None, description="Your own words about it; null: as they are.")


class SecretWish(SecretChange):
    """A secret to be kept."""

    name: str = Field(
        description="Kept in lower case; 1 to 128 characters, no braces, slashes or control characters.",
        examples=["example"],
    )


class Secret(BaseModel):
    """What is known of a secret; its value is not."""

    id: str = Field(examples=["sec_3k9d0q2mz7w1x5c8v4bn"])
    name: str = Field(description="${e2b.secrets.NAME} in a header rule stands for its value.")
    version: int = Field(description="1, and one more with each value.")
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime


class SecretPage(BaseModel):
    """A part of a list, in the order of names."""

    secrets: list[Secret]
    next_page_token: str | None = Field(
        description="Give it as page_token for the next part; null: this was the last."
    )


def router(secrets: Secrets) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1/secrets", tags=["secrets"], route_class=route_class(render))

    @routes.post("", status_code=201, summary="Create a secret", responses=problems(400, 409, 413, 429))
    async def create_secret(actor: Caller, wish: SecretWish) -> Secret:
        """Keep a value that header rules may name, and that no sandbox sees."""
        return _shown(await secrets.create(actor, wish.name, wish.value, wish.metadata or {}))

    @routes.get("", summary="List secrets", responses=problems(400))
    async def list_secrets(
        actor: Caller,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
        page_token: Annotated[str | None, Query(description="From the page before.")] = None,
    ) -> SecretPage:
        """List your secrets, in the order of their names."""
        after = decode_name_cursor(page_token) if page_token else ""
        found = await secrets.list(actor, after=after, limit=limit)
        last = await last_before_more(found, limit, lambda one: secrets.list(actor, after=one.name, limit=1))
        return SecretPage(
            secrets=[_shown(one) for one in found],
            next_page_token=encode_name_cursor(last.name) if last is not None else None,
        )

    @routes.get("/{reference}", summary="Get a secret", responses=problems(404))
    async def get_secret(actor: Caller, reference: Reference) -> Secret:
        """Read what is known of a secret."""
        return _shown(await secrets.get(actor, reference))

    @routes.put("/{reference}", summary="Change a secret", responses=problems(400, 404, 413))
    async def change_secret(actor: Caller, reference: Reference, change: SecretChange) -> Secret:
        """Give a secret another value: requests carry it after 5 s, in running sandboxes too."""
        return _shown(await secrets.update(actor, reference, change.value, change.metadata))

    @routes.delete(
        "/{reference}",
        status_code=204,
        response_class=Response,
        summary="Delete a secret",
        responses=problems(404),
    )
    async def delete_secret(actor: Caller, reference: Reference) -> None:
        """Requests whose rule names it are refused from then on."""
        if not await secrets.delete(actor, reference):
            raise NotFoundError(f"Secret {reference[:64]!a} not found")

    return routes


def _shown(secret: domain.Secret) -> Secret:
    return Secret(
        id=secret.id,
        name=secret.name,
        version=secret.version,
        metadata=dict(secret.metadata),
        created_at=secret.created_at,
        updated_at=secret.updated_at,
    )
