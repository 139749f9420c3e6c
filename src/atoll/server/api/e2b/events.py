"""Routes of the E2B dialect about events."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b.form import render
from atoll.server.api.e2b.queries import split_list
from atoll.server.control.watching.events import MOST_LISTED, Events
from atoll.server.domain.events import plain

# A database counts no further.
_MOST_OFFSET = 10**9

Offset = Annotated[int, Query(ge=0, le=_MOST_OFFSET)]
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED)]
Types = Annotated[list[str] | None, Query()]


def router(events: Events) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    @routes.get("/events/sandboxes")
    async def list_all(
        actor: Caller,
        offset: Offset = 0,
        limit: Limit = 10,
        orderAsc: bool = False,
        types: Types = None,
    ) -> list[dict[str, Any]]:
        found = await events.list(
            actor,
            untrusted_types=split_list("types", types),
            offset=offset,
            limit=limit,
            oldest_first=orderAsc,
        )
        return [plain(event) for event in found]

    @routes.get("/events/sandboxes/{sandbox_id}")
    async def list_of_one(
        actor: Caller,
        sandbox_id: str,
        offset: Offset = 0,
        limit: Limit = 10,
        orderAsc: bool = False,
        types: Types = None,
    ) -> list[dict[str, Any]]:
        found = await events.list(
            actor,
            untrusted_id=sandbox_id,
            untrusted_types=split_list("types", types),
            offset=offset,
            limit=limit,
            oldest_first=orderAsc,
        )
        return [plain(event) for event in found]

    return routes
