"""Routes of the E2B dialect about templates that are there; building them is not among them."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Response

from atoll.server.api.cursor import decode_name_cursor, encode_name_cursor
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b import models
from atoll.server.api.e2b.form import render
from atoll.server.api.e2b.translate import from_build, from_template
from atoll.server.api.fields import Reference
from atoll.server.control.service import Control
from atoll.server.domain.errors import PermissionDeniedError

# E2B's default, and its most.
_PAGE = 100

T = TypeVar("T")
Limit = Annotated[int, Query(ge=1, le=_PAGE)]
NextToken = Annotated[str | None, Query()]


def router(control: Control) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    @routes.get("/templates")
    @routes.get("/default-templates")
    async def list_templates(actor: Caller) -> list[models.Template]:
        return [from_template(template) for template in await control.templates(actor)]

    @routes.get("/v2/templates")
    async def list_page(
        actor: Caller, response: Response, limit: Limit = _PAGE, nextToken: NextToken = None
    ) -> list[models.Template]:
        found = await control.templates(actor)
        page = _page(found, lambda one: one.name, limit, nextToken, response)
        return [from_template(template) for template in page]

    @routes.get("/templates/aliases/{alias:path}")
    async def find_alias(actor: Caller, alias: Reference) -> models.TemplateAlias:
        return models.TemplateAlias(templateID=(await control.template(actor, alias)).id)

    @routes.get("/templates/{template_id}")
    async def get_template(
        actor: Caller,
        template_id: Reference,
        response: Response,
        limit: Limit = _PAGE,
        nextToken: NextToken = None,
    ) -> models.TemplateWithBuilds:
        template = await control.template(actor, template_id)
        # Another build of its name is another template.
        builds = _page([from_build(template)], lambda one: one.buildID, limit, nextToken, response)
        return models.TemplateWithBuilds(**from_template(template).model_dump(), builds=list(builds))

    @routes.delete("/templates/{template_id:path}", status_code=204, response_class=Response)
    async def delete_template(actor: Caller, template_id: Reference) -> None:
        if await control.snapshots.delete(actor, template_id):
            return
        template = await control.template(actor, template_id)
        raise PermissionDeniedError(
            f"template '{template.name}' is the server's own: callers cannot delete it"
        )

    return routes


def _page(
    found: Sequence[T], name: Callable[[T], str], limit: int, token: str | None, response: Response
) -> Sequence[T]:
    """
    Cut a page out of all that there is, in the order of names, and say where the next one begins.

    Raises:
        InvalidArgumentError: the token is not one of ours.
    """
    after = decode_name_cursor(token) if token else ""
    left = [one for one in found if name(one) > after]
    if len(left) > limit:
        response.headers["X-Next-Token"] = encode_name_cursor(name(left[limit - 1]))
    return left[:limit]
