"""The E2B dialect as one app."""

from fastapi import APIRouter, FastAPI, Response

from atoll.server.api.dialect import add_error_forms, route_class
from atoll.server.api.e2b import (
    events,
    keys,
    login,
    logs,
    metrics,
    sandboxes,
    snapshots,
    templates,
    unavailable,
    volumes,
    webhooks,
)
from atoll.server.api.e2b import secrets as secret_routes
from atoll.server.api.e2b.form import render
from atoll.server.api.e2b.translate import Reach
from atoll.server.api.gate import Dialect
from atoll.server.control.verbs import Verbs


def build(verbs: Verbs, reach: Reach) -> Dialect:
    """Put the routes together."""
    # No OpenAPI: this interface is E2B's to describe.
    app = FastAPI(
        openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, strict_content_type=False
    )
    add_error_forms(app, render)
    app.include_router(_health())
    # Before the calls about one sandbox: "metrics" is no id.
    app.include_router(metrics.router(verbs.observing, verbs.team_metrics))
    app.include_router(sandboxes.router(verbs.control, reach))
    app.include_router(logs.router(verbs.logbook))
    app.include_router(secret_routes.router(verbs.secrets))
    app.include_router(events.router(verbs.events))
    app.include_router(webhooks.router(verbs.webhooks))
    app.include_router(keys.router(verbs.keys))
    app.include_router(login.router(verbs.signing_in))
    app.include_router(snapshots.router(verbs.control, reach))
    # Before templates: its paths are the narrower ones.
    app.include_router(unavailable.router())
    app.include_router(templates.router(verbs.control))
    app.include_router(volumes.router(verbs.control.volumes))
    return Dialect(
        app=app,
        prefixes=(login.PAGE,),
        open_paths=frozenset({"/health", *login.PATHS}),
        render=render,
    )


def _health() -> APIRouter:
    routes = APIRouter(route_class=route_class(render))

    @routes.get("/health", status_code=204, response_class=Response)
    async def health() -> None:
        """Say that the server answers."""

    return routes
