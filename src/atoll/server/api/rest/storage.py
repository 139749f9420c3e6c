"""Calls of our own API about what takes room on the disk."""

from fastapi import APIRouter

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.rest import models
from atoll.server.api.rest.form import problems, render
from atoll.server.control.upkeep.storing import Storing


def router(storing: Storing) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1", tags=["server"], route_class=route_class(render))

    @routes.post("/collections", summary="Remove what nobody needs", responses=problems(400, 403))
    async def collect(actor: Caller, wish: models.CollectionWish) -> models.Collection:
        """Only with the home's own key. Half-written and unnamed checkpoints, old programs and builds."""
        found = await storing.collect(actor, dry=wish.dry_run)
        return models.Collection(
            dry_run=wish.dry_run,
            size_bytes=found.size_bytes,
            leftovers=[
                models.Leftover(kind=one.kind.value, name=one.name, size_bytes=one.size_bytes)
                for one in found.leftovers
            ],
            problems=list(found.problems),
        )

    return routes
