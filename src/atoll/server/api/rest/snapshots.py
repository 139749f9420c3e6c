"""Calls of our own API about snapshots and forks."""

from dataclasses import replace
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from atoll.server.api.cursor import decode_snapshot_cursor, encode_snapshot_cursor, last_before_more
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.rest import models
from atoll.server.api.rest.form import problems, render
from atoll.server.api.rest.translate import from_limits, from_sandbox
from atoll.server.control.lifecycle.snapshots import MOST_LISTED
from atoll.server.control.service import Control
from atoll.server.domain import snapshot as domain
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import AtollError, NotFoundError
from atoll.server.domain.ids import parse_sandbox_id
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.snapshots import SnapshotQuery


def router(control: Control, domain_name: str) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1", tags=["snapshots"], route_class=route_class(render))
    taken = problems(400, 404, 409, 413, 429, 503, 504)

    @routes.post(
        "/sandboxes/{sandbox_id}/snapshots", status_code=201, summary="Take a snapshot", responses=taken
    )
    async def take_snapshot(
        actor: Caller, sandbox_id: str, body: models.SnapshotWish | None = None
    ) -> models.Snapshot:
        """Write a running sandbox to the disk; it goes on. The snapshot serves as a template."""
        body = body or models.SnapshotWish()
        kind = CheckpointKind.MEMORY if body.memory else CheckpointKind.FILES
        return _shown(await control.snapshots.take(actor, sandbox_id, body.name, kind))

    @routes.post("/sandboxes/{sandbox_id}/fork", status_code=201, summary="Fork a sandbox", responses=taken)
    async def fork_sandbox(actor: Caller, sandbox_id: str, body: models.ForkWish) -> list[models.Fork]:
        """Create sandboxes that go on where a running one is now; each succeeds or fails alone."""
        lifetime = timedelta(seconds=body.timeout_seconds)
        made = await control.snapshots.fork(actor, sandbox_id, body.count, lifetime)
        return [_fork(control, domain_name, one) for one in made]

    @routes.get("/snapshots", summary="List snapshots", responses=problems(400))
    async def list_snapshots(
        actor: Caller,
        sandbox_id: Annotated[str | None, Query(description="What they were taken of.")] = None,
        name: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
        page_token: Annotated[str | None, Query(description="From the page before.")] = None,
    ) -> models.SnapshotPage:
        """List your snapshots, newest first."""
        query = SnapshotQuery(
            team_id=actor.team_id,
            sandbox_id=None if sandbox_id is None else parse_sandbox_id(sandbox_id),
            name=None if name is None else domain.check_name(name),
            after=decode_snapshot_cursor(page_token) if page_token else None,
            limit=limit,
        )
        found = await control.snapshots.list(query)
        last = await last_before_more(
            found,
            limit,
            lambda one: control.snapshots.list(replace(query, after=(one.created_at, one.id), limit=1)),
        )
        return models.SnapshotPage(
            snapshots=[_shown(one) for one in found],
            next_page_token=encode_snapshot_cursor(last) if last is not None else None,
        )

    @routes.delete(
        "/snapshots/{reference}",
        status_code=204,
        response_class=Response,
        summary="Delete a snapshot",
        responses=problems(404),
    )
    async def delete_snapshot(actor: Caller, reference: str) -> None:
        """By id or name; what was created from it lives on."""
        if not await control.snapshots.delete(actor, reference):
            raise NotFoundError(f"Snapshot {reference[:64]!a} not found")

    return routes


def _shown(snapshot: domain.Snapshot) -> models.Snapshot:
    return models.Snapshot(
        id=snapshot.id,
        name=snapshot.name,
        sandbox_id=snapshot.sandbox_id,
        template=snapshot.template_alias,
        memory=snapshot.kind is CheckpointKind.MEMORY,
        limits=from_limits(snapshot.limits),
        size_bytes=snapshot.size_bytes,
        scheduled=snapshot.scheduled,
        created_at=snapshot.created_at,
    )


def _fork(control: Control, domain_name: str, made: Sandbox | AtollError) -> models.Fork:
    if isinstance(made, AtollError):
        return models.Fork(sandbox=None, error=models.ForkProblem(code=made.code, message=made.message))
    shown = from_sandbox(
        made,
        domain=domain_name,
        token=control.access_token(made.id),
        traffic_token=control.traffic_token(made),
    )
    return models.Fork(sandbox=shown, error=None)
