"""Calls of our own API about what happened in sandboxes."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.rest import models
from atoll.server.api.rest.form import problems, render
from atoll.server.control.watching.logbook import Logbook
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.logs import Level, LogQuery

_PAGE = 1000


def router(logbook: Logbook) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1/sandboxes", tags=["sandboxes"], route_class=route_class(render))

    @routes.get("/{sandbox_id}/logs", summary="Read a sandbox's log", responses=problems(400, 404))
    async def read_log(
        actor: Caller,
        sandbox_id: str,
        start: Annotated[datetime | None, Query(description="The first moment.")] = None,
        end: Annotated[datetime | None, Query(description="The first moment that is too late.")] = None,
        limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
        newest_first: Annotated[bool, Query(description="Else the oldest.")] = False,
        level: Annotated[Level, Query(description="The least.")] = Level.DEBUG,
        search: Annotated[
            str, Query(max_length=256, description="What message or fields contain, whatever its case.")
        ] = "",
    ) -> list[models.LogLine]:
        """Read what happened in a sandbox: its life, and the commands that ran; also of one that ended."""
        for name, moment in (("start", start), ("end", end)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidArgumentError(f"query {name}: must have a time zone")
        query = LogQuery(
            start=start, end=end, most=limit, newest_first=newest_first, level=level, search=search
        )
        return [
            models.LogLine(at=line.at, level=line.level.value, message=line.message, fields=dict(line.fields))
            for line in await logbook.read(actor, sandbox_id, query)
        ]

    return routes
