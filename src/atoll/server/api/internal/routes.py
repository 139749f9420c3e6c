"""
``GET /v1/routes/{id}`` for the edge.

No key: the socket lies in the home, which only its owner can enter.
"""

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.responses import JSONResponse

from atoll.server.api.dialect import add_error_forms, route_class
from atoll.server.api.errors import Answer
from atoll.server.api.gate import Dialect
from atoll.server.control.service import Control


class Route(BaseModel):
    """Where a running sandbox is."""

    sandbox_id: str
    address: str
    status: str


def render(answer: Answer) -> JSONResponse:
    """Write ``{"code": <word>, "message": ...}``."""
    body = {"code": answer.code.value, "message": answer.message}
    return JSONResponse(body, status_code=answer.status, headers=dict(answer.headers))


def build(control: Control) -> Dialect:
    """Put the routes together."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_error_forms(app, render)
    routes = APIRouter(route_class=route_class(render))

    @routes.get("/v1/routes/{sandbox_id}")
    async def route(sandbox_id: str) -> Route:
        found = await control.route(sandbox_id)
        return Route(sandbox_id=found.sandbox_id, address=found.address, status=found.status.value)

    app.include_router(routes)
    return Dialect(app=app, open_prefixes=("/",), render=render)
