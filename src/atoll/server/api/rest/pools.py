"""Calls of our own API about the pool."""

from fastapi import APIRouter

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.rest import models
from atoll.server.api.rest.form import problems, render
from atoll.server.api.rest.translate import from_limits
from atoll.server.control.warm.pool import Pool
from atoll.server.domain.pool import PoolStatus


def router(pool: Pool) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1/pools", tags=["server"], route_class=route_class(render))

    @routes.get("", summary="List pools", responses=problems(403))
    async def list_pools(actor: Caller) -> list[models.Pool]:
        """Machines that wait to become sandboxes, by template and size; only with the home's own key."""
        return [_shown(status) for status in pool.statuses(actor)]

    return routes


def _shown(status: PoolStatus) -> models.Pool:
    return models.Pool(
        template=status.template,
        template_id=status.key.template_id,
        limits=from_limits(status.key.limits),
        ready=status.ready,
        ids=list(status.ids),
        wanted=status.wanted,
        hits=status.hits,
        misses=status.misses,
        oldest_since=status.oldest,
        machine_bytes=status.machine_bytes,
        problem=status.problem,
    )
