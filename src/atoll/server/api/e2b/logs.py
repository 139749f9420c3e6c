"""Calls of the E2B dialect about what happened in sandboxes; each method is one route."""

import json
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b import models
from atoll.server.api.e2b.form import render
from atoll.server.control.watching.logbook import Logbook
from atoll.server.domain.logs import Level, Line, LogQuery

# E2B's default, and its most.
_PAGE = 1000
_MOST_SEARCH = 256
# The year 9999: later milliseconds are no time in Python.
_LATEST = 253_402_300_799_999

Moment = Annotated[int | None, Query(ge=0, le=_LATEST)]
Limit = Annotated[int, Query(ge=1, le=_PAGE)]


def router(logbook: Logbook) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))
    calls = _Calls(logbook)
    routes.get("/sandboxes/{sandbox_id}/logs")(calls.logs_v1)
    routes.get("/v2/sandboxes/{sandbox_id}/logs")(calls.logs)
    return routes


class _Calls:
    def __init__(self, logbook: Logbook) -> None:
        self._logbook = logbook

    async def logs_v1(
        self, actor: Caller, sandbox_id: str, start: Moment = None, limit: Limit = _PAGE
    ) -> models.Logs:
        lines = await self._logbook.read(actor, sandbox_id, LogQuery(start=_moment(start), most=limit))
        return models.Logs(
            logs=[models.LogLine(timestamp=line.at, line=_text(line)) for line in lines],
            logEntries=[_entry(line) for line in lines],
        )

    async def logs(
        self,
        actor: Caller,
        sandbox_id: str,
        cursor: Moment = None,
        limit: Limit = _PAGE,
        direction: Literal["forward", "backward"] = "forward",
        level: Level | None = None,
        search: Annotated[str, Query(max_length=_MOST_SEARCH)] = "",
    ) -> models.LogsV2:
        backward = direction == "backward"
        moment = _moment(cursor)
        query = LogQuery(
            start=None if backward else moment,
            end=moment if backward else None,
            most=limit,
            newest_first=backward,
            level=level or Level.DEBUG,
            search=search,
        )
        lines = await self._logbook.read(actor, sandbox_id, query)
        return models.LogsV2(logs=[_entry(line) for line in lines])


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _entry(line: Line) -> models.LogEntry:
    return models.LogEntry(
        timestamp=line.at, message=line.message, level=line.level.value, fields=dict(line.fields)
    )


def _text(line: Line) -> str:
    # E2B's command line reads level and logger out of it, and shows the rest.
    return json.dumps({"logger": "", **line.fields, "level": line.level.value, "message": line.message})
