"""Calls of our own API about volumes; what is in them is the edge's to serve, see contents.py."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from atoll.server.api.cursor import decode_volume_cursor, encode_volume_cursor, last_before_more
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.fields import Name
from atoll.server.api.rest.form import problems, render
from atoll.server.api.rest.models import Closed
from atoll.server.control.owned.volumes import Volumes
from atoll.server.domain import volume as domain
from atoll.server.domain.volume import MOST_LISTED

Reference = Annotated[str, Path(description="The volume's name, or its id.", examples=["notes"])]


class VolumeWish(Closed):
    """A volume to be made."""

    name: Name = Field(
        description="1 to 63 letters, digits, '-' and '_', a letter or digit first.", examples=["notes"]
    )


class Volume(BaseModel):
    """Files that outlive sandboxes."""

    id: str = Field(examples=["v3k9d0q2mz7w1x5c8v4bn"])
    name: str = Field(examples=["notes"])
    size_bytes: int = Field(description="What it holds at most; it takes room as it is written to.")
    created_at: datetime
    token: str | None = Field(
        description="Opens its contents at /volumecontent/<id>, as a bearer's; null in lists."
    )


class VolumePage(BaseModel):
    """A part of a list, oldest first."""

    volumes: list[Volume]
    next_page_token: str | None = Field(
        description="Give it as page_token for the next part; null: this was the last."
    )


def router(volumes: Volumes) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1/volumes", tags=["volumes"], route_class=route_class(render))

    @routes.post("", status_code=201, summary="Create a volume", responses=problems(400, 409, 429, 503))
    async def create_volume(actor: Caller, wish: VolumeWish) -> Volume:
        """Make an empty volume; no two of a team have one name."""
        return _opened(volumes, await volumes.create(actor, wish.name))

    @routes.get("", summary="List volumes", responses=problems(400))
    async def list_volumes(
        actor: Caller,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
        page_token: Annotated[str | None, Query(description="From the page before.")] = None,
    ) -> VolumePage:
        """List your volumes, oldest first."""
        after = decode_volume_cursor(page_token) if page_token else None
        found = await volumes.list(actor, after=after, limit=limit)
        last = await last_before_more(
            found, limit, lambda one: volumes.list(actor, after=(one.created_at, one.id), limit=1)
        )
        return VolumePage(
            volumes=[_shown(one, None) for one in found],
            next_page_token=encode_volume_cursor(last) if last is not None else None,
        )

    @routes.get("/{reference}", summary="Get a volume", responses=problems(404))
    async def get_volume(actor: Caller, reference: Reference) -> Volume:
        """Find a volume by name or id; the answer holds what opens its contents."""
        return _opened(volumes, await volumes.find(actor, reference))

    @routes.delete(
        "/{reference}",
        status_code=204,
        response_class=Response,
        summary="Delete a volume",
        responses=problems(404, 409, 503),
    )
    async def delete_volume(actor: Caller, reference: Reference) -> None:
        """Delete a volume with all that is in it. One that a sandbox has stays, until that is killed."""
        await volumes.delete(actor, (await volumes.find(actor, reference)).id)

    return routes


def _opened(volumes: Volumes, volume: domain.Volume) -> Volume:
    return _shown(volume, volumes.token(volume.id))


def _shown(volume: domain.Volume, token: str | None) -> Volume:
    return Volume(
        id=volume.id,
        name=volume.name,
        size_bytes=volume.size_bytes,
        created_at=volume.created_at,
        token=token,
    )
