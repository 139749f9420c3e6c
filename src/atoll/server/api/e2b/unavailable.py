"""
Routes of E2B that clients call and Atoll does not have yet.

Each says so by name with 501, which no client sends again; an unknown path is a 404 and could mean anything.
"""

from fastapi import APIRouter

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b.form import render
from atoll.server.domain.errors import UnimplementedError

_SANDBOX = "/sandboxes/{sandbox_id}"
_TEMPLATE = "/templates/{template_id}"

# (method, path) → what the caller wanted to do.
UNAVAILABLE: dict[tuple[str, str], str] = {
    ("POST", "/v3/templates"): "building a template",
    ("POST", "/v2/templates"): "building a template",
    ("POST", "/templates"): "building a template",
    ("POST", f"/v2{_TEMPLATE}/builds/{{build_id}}"): "building a template",
    ("GET", f"{_TEMPLATE}/builds/{{build_id}}/status"): "building a template",
    ("GET", f"{_TEMPLATE}/builds/{{build_id}}/logs"): "building a template",
    ("GET", f"{_TEMPLATE}/files/{{digest}}"): "building a template",
    ("PATCH", _TEMPLATE): "changing a template",
    ("PATCH", f"/v2{_TEMPLATE}"): "changing a template",
    ("POST", "/templates/tags"): "tagging a template",
    ("DELETE", "/templates/tags"): "tagging a template",
    ("GET", f"{_TEMPLATE}/tags"): "tagging a template",
}


def router() -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    def add(method: str, path: str, wanted: str) -> None:
        async def refuse(_: Caller) -> None:
            raise UnimplementedError(f"{wanted} is not available in this version of Atoll")

        routes.add_api_route(path, refuse, methods=[method])

    for (method, path), wanted in UNAVAILABLE.items():
        add(method, path, wanted)
    return routes
