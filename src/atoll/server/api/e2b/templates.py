"""Routes of the E2B dialect about templates that are there; building them is not among them."""

from fastapi import APIRouter, Response

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b import models
from atoll.server.api.e2b.form import render
from atoll.server.api.e2b.translate import from_template
from atoll.server.control.service import Control
from atoll.server.domain.errors import UnimplementedError


def router(control: Control) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    @routes.get("/templates")
    @routes.get("/v2/templates")
    @routes.get("/default-templates")
    async def list_templates(actor: Caller) -> list[models.Template]:
        return [from_template(template) for template in await control.templates(actor)]

    @routes.get("/templates/aliases/{alias:path}")
    async def find_alias(actor: Caller, alias: str) -> models.TemplateAlias:
        return models.TemplateAlias(templateID=(await control.template(actor, alias)).id)

    @routes.delete("/templates/{template_id:path}", status_code=204, response_class=Response)
    async def delete_template(actor: Caller, template_id: str) -> None:
        if await control.snapshots.delete(actor, template_id):
            return
        template = await control.template(actor, template_id)
        raise UnimplementedError(f"template '{template.name}' belongs to the server and cannot be deleted")

    return routes
