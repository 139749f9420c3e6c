"""Our own dialect as one app, with its documentation."""

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi_offline import FastAPIOffline

from atoll.server.api.dialect import Caller, add_error_forms, route_class
from atoll.server.api.gate import Dialect
from atoll.server.api.rest import (
    contents,
    identity,
    keys,
    logs,
    metrics,
    models,
    pools,
    sandboxes,
    secrets,
    snapshots,
    storage,
    volumes,
)
from atoll.server.api.rest.form import problems, render
from atoll.server.api.rest.translate import from_template
from atoll.server.control.service import Control
from atoll.server.control.verbs import Verbs

_DESCRIPTION = """
Creates and ends sandboxes: isolated Linux machines for code that nobody trusts.

Commands, files and ports of a sandbox are not here. They are reached through the same address as this API,
with the header `E2b-Sandbox-Id`, or at `<port>-<sandbox id>.<domain>`. The contents of volumes are reached
through it, too, with the volume's token as `Authorization: Bearer <token>`.

Every call but `GET /v1/health` needs an API key, as `Authorization: Bearer <key>` or `X-API-Key: <key>`.
An error has a code that programs can rely on, a message for people, and the id under which the log has it.
"""

# For the documentation only: the gate has checked the key before a route is reached.
_BEARER = HTTPBearer(auto_error=False, description="An API key of your team.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, for clients of E2B.")


def build(verbs: Verbs, domain: str) -> Dialect:
    """Put the routes together."""
    release = version("atoll")
    app = FastAPIOffline(
        redoc_url=None,
        static_url="/docs/static",
        title="Atoll",
        version=release,
        description=_DESCRIPTION,
        redirect_slashes=False,
        # A body without a type is taken for JSON: pages of others cannot send the key that it needs anyway.
        strict_content_type=False,
        swagger_ui_parameters={"persistAuthorization": True},
    )
    _complete_document(app)
    add_error_forms(app, render)
    app.include_router(_health(release))
    app.include_router(identity.router(verbs.identity))
    key = [Security(_BEARER), Security(_HEADER)]
    app.include_router(sandboxes.router(verbs.control, domain), dependencies=key)
    app.include_router(snapshots.router(verbs.control, domain), dependencies=key)
    app.include_router(volumes.router(verbs.control.volumes), dependencies=key)
    app.include_router(secrets.router(verbs.secrets), dependencies=key)
    app.include_router(metrics.router(verbs.observing), dependencies=key)
    app.include_router(logs.router(verbs.logbook), dependencies=key)
    app.include_router(_templates(verbs.control), dependencies=key)
    app.include_router(keys.router(verbs.keys, verbs.teams), dependencies=key)
    app.include_router(storage.router(verbs.storing), dependencies=key)
    app.include_router(pools.router(verbs.control.pool), dependencies=key)
    return Dialect(
        app=app,
        prefixes=("/v1/", "/docs", "/openapi.json", "/.well-known/"),
        open_paths=frozenset({"/v1/health", "/docs", "/openapi.json", identity.DISCOVERY, identity.KEYS}),
        open_prefixes=("/docs/",),
        render=render,
    )


def _health(release: str) -> APIRouter:
    routes = APIRouter(tags=["server"], route_class=route_class(render))

    @routes.get("/v1/health", summary="Ask whether the server answers")
    async def health() -> models.Health:
        """Needs no key."""
        return models.Health(version=release)

    return routes


def _templates(control: Control) -> APIRouter:
    routes = APIRouter(prefix="/v1/templates", tags=["templates"], route_class=route_class(render))

    @routes.get("", summary="List templates", responses=problems())
    async def list_templates(actor: Caller) -> list[models.Template]:
        """List what sandboxes can start from."""
        return [from_template(template) for template in await control.templates(actor)]

    @routes.get("/{name}", summary="Get a template", responses=problems(404))
    async def get_template(
        actor: Caller, name: Annotated[str, Path(description="Name or id.", examples=["base"])]
    ) -> models.Template:
        """Find a template by name or id."""
        return from_template(await control.template(actor, name))

    return routes


def _complete_document(app: FastAPI) -> None:
    """Take FastAPI's own form of errors out of the documentation, ours come as 400; add the edge's calls."""
    describe = app.openapi

    def openapi() -> dict[str, object]:
        schema = describe()
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        contents.describe(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
