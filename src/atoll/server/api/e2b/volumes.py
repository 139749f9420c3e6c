"""Routes of the E2B dialect about volumes; what is in them is the edge's to serve."""

from fastapi import APIRouter, Response
from pydantic import BaseModel

from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b.form import render
from atoll.server.api.fields import Name
from atoll.server.control.owned.volumes import Volumes
from atoll.server.domain.volume import Volume


class NewVolume(BaseModel):
    """Makes a volume."""

    name: Name


class ListedVolume(BaseModel):
    """A volume in a list."""

    volumeID: str
    name: str


class VolumeAndToken(ListedVolume):
    """A volume, and what opens its contents."""

    token: str


def router(volumes: Volumes) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    def opened(volume: Volume) -> VolumeAndToken:
        return VolumeAndToken(volumeID=volume.id, name=volume.name, token=volumes.token(volume.id))

    @routes.get("/volumes")
    async def list_volumes(actor: Caller) -> list[ListedVolume]:
        return [ListedVolume(volumeID=one.id, name=one.name) for one in await volumes.list(actor)]

    @routes.post("/volumes", status_code=201)
    async def create(actor: Caller, body: NewVolume) -> VolumeAndToken:
        return opened(await volumes.create(actor, body.name))

    @routes.get("/volumes/{volume_id}")
    async def get(actor: Caller, volume_id: str) -> VolumeAndToken:
        return opened(await volumes.get(actor, volume_id))

    @routes.delete("/volumes/{volume_id}", status_code=204, response_class=Response)
    async def delete(actor: Caller, volume_id: str) -> None:
        await volumes.delete(actor, volume_id)

    return routes
