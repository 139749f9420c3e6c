"""Calls of our own API about what sandboxes used."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.rest import models
from atoll.server.api.rest.form import problems, render
from atoll.server.control.watching.observing import Observing
from atoll.server.domain.errors import InvalidArgumentError


def router(observing: Observing) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1/sandboxes", tags=["sandboxes"], route_class=route_class(render))

    @routes.get("/{sandbox_id}/metrics", summary="List what a sandbox used", responses=problems(400, 404))
    async def list_metrics(
        actor: Caller,
        sandbox_id: str,
        start: Annotated[
            datetime | None, Query(description="The first moment; default: the first kept.")
        ] = None,
        end: Annotated[datetime | None, Query(description="The last moment; default: now.")] = None,
    ) -> list[models.Metric]:
        """
        List what a sandbox used, a metric every 5 s, also of one that ended.

        Where no server ran, there are none. A long time is told in fewer, longer steps.
        """
        for name, moment in (("start", start), ("end", end)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidArgumentError(f"query {name}: must have a time zone")
        _, points = await observing.metrics(actor, sandbox_id, start=start, end=end)
        return [
            models.Metric(
                at=point.at,
                cores=round(point.cores, 4),
                memory_bytes=point.memory_bytes,
                cache_bytes=point.cache_bytes,
                disk_bytes=point.disk_bytes,
            )
            for point in points
        ]

    return routes
