"""Calls of the E2B dialect about what sandboxes used, one or all of a team; each method is one route."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b import models
from atoll.server.api.e2b.form import render
from atoll.server.api.e2b.queries import split_list
from atoll.server.api.e2b.translate import from_point, from_team_point, unix_seconds
from atoll.server.control.watching.observing import Observing
from atoll.server.control.watching.team_metrics import TeamMetrics

# The year 9999: later seconds are no time in Python.
_LATEST = 253_402_300_799
Moment = Annotated[int | None, Query(ge=0, le=_LATEST)]


def router(observing: Observing, of_teams: TeamMetrics) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))
    calls = _Calls(observing)
    routes.get("/sandboxes/metrics")(calls.metrics_of_many)
    routes.get("/sandboxes/{sandbox_id}/metrics")(calls.metrics)
    team_calls = _TeamCalls(of_teams)
    routes.get("/teams/{team_id}/metrics")(team_calls.metrics)
    routes.get("/teams/{team_id}/metrics/max")(team_calls.most)
    return routes


class _Calls:
    def __init__(self, observing: Observing) -> None:
        self._observing = observing

    async def metrics(
        self, actor: Caller, sandbox_id: str, start: Moment = None, end: Moment = None
    ) -> list[models.SandboxMetric]:
        sandbox, points = await self._observing.metrics(
            actor, sandbox_id, start=_moment(start), end=_end_of(end)
        )
        return [from_point(sandbox, point) for point in points]

    async def metrics_of_many(
        self, actor: Caller, sandbox_ids: Annotated[list[str], Query()]
    ) -> models.SandboxesWithMetrics:
        found = await self._observing.last_metrics(actor, split_list("sandbox_ids", sandbox_ids))
        return models.SandboxesWithMetrics(
            sandboxes={sandbox_id: from_point(*pair) for sandbox_id, pair in found.items()}
        )


class _TeamCalls:
    def __init__(self, metrics: TeamMetrics) -> None:
        self._metrics = metrics

    async def metrics(
        self, actor: Caller, team_id: str, start: Moment = None, end: Moment = None
    ) -> list[models.TeamMetric]:
        history = await self._metrics.history(actor, team_id, start=_moment(start), end=_end_of(end))
        return [from_team_point(point) for point in history.points()] if history is not None else []

    async def most(
        self,
        actor: Caller,
        team_id: str,
        metric: Literal["concurrent_sandboxes", "sandbox_start_rate"],
        start: Moment = None,
        end: Moment = None,
    ) -> models.MaxTeamMetric:
        first, last = _moment(start), _end_of(end)
        history = await self._metrics.history(actor, team_id, start=first, end=last)
        if history is None:
            # Of that time nothing is known, and the form has no word for it. Up to now something is.
            asked = last or first
            assert asked is not None
            at, value = asked, 0.0
        elif metric == "concurrent_sandboxes":
            at, value = history.most_running()
        else:
            at, value = history.fastest_start()
        return models.MaxTeamMetric(timestamp=at, timestampUnix=unix_seconds(at), value=value)


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _end_of(seconds: int | None) -> datetime | None:
    # Callers know whole seconds, and mean all of the last one.
    moment = _moment(seconds)
    return None if moment is None else moment.replace(microsecond=999_999)
