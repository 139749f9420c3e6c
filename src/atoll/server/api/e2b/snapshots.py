"""Routes of the E2B dialect about snapshots and forks."""

from dataclasses import replace
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, StrictInt

from atoll.server.api.cursor import decode_snapshot_cursor, encode_snapshot_cursor, last_before_more
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b import models
from atoll.server.api.e2b.form import body_of, render
from atoll.server.api.e2b.translate import Reach, from_sandbox
from atoll.server.api.errors import answer_to
from atoll.server.api.fields import Flag, Reference, Seconds
from atoll.server.control.lifecycle.snapshots import MOST_LISTED
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import AtollError
from atoll.server.domain.ids import parse_sandbox_id
from atoll.server.domain.sandbox import Sandbox
from atoll.server.domain.snapshot import Snapshot, bare_reference, check_name
from atoll.server.ports.snapshots import SnapshotQuery

# E2B's default of a fork.
_FORK_SECONDS = 15


class NewSnapshot(BaseModel):
    """A snapshot to be taken."""

    name: Reference | None = None
    memory: Flag | None = None


class SnapshotInfo(BaseModel):
    """A snapshot."""

    snapshotID: str
    names: list[str]


class Fork(BaseModel):
    """Sandboxes to be made of one."""

    timeout: Seconds | None = None
    count: StrictInt | None = None


class ForkError(BaseModel):
    """Why one of them is not there."""

    code: int
    message: str
    error_code: str | None = None


class ForkResult(BaseModel):
    """One of them."""

    sandbox: models.Sandbox | None = None
    error: ForkError | None = None


def router(control: Control, reach: Reach) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    @routes.post("/sandboxes/{sandbox_id}/snapshots", status_code=201)
    async def take(actor: Caller, sandbox_id: str, body: NewSnapshot | None = None) -> SnapshotInfo:
        body = body or NewSnapshot()
        kind = CheckpointKind.FILES if body.memory is False else CheckpointKind.MEMORY
        return _shown(await control.snapshots.take(actor, sandbox_id, body.name, kind))

    @routes.post("/sandboxes/{sandbox_id}/fork", status_code=201, response_model_exclude_none=True)
    async def fork(
        actor: Caller, sandbox_id: str, request: Request, body: Fork | None = None
    ) -> list[ForkResult]:
        body = body or Fork()
        timeout = timedelta(seconds=_FORK_SECONDS if body.timeout is None else body.timeout)
        count = 1 if body.count is None else body.count
        made = await control.snapshots.fork(actor, sandbox_id, count, timeout)
        return [_result(control, reach, one, request.state.request_id) for one in made]

    @routes.get("/snapshots")
    async def list_snapshots(
        actor: Caller,
        response: Response,
        sandboxID: Annotated[str | None, Query()] = None,
        name: Annotated[Reference | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
        nextToken: Annotated[str | None, Query()] = None,
    ) -> list[SnapshotInfo]:
        query = SnapshotQuery(
            team_id=actor.team_id,
            sandbox_id=None if sandboxID is None else parse_sandbox_id(sandboxID),
            name=None if name is None else check_name(bare_reference(name, actor.team_id)),
            after=decode_snapshot_cursor(nextToken) if nextToken else None,
            limit=limit,
        )
        found = await control.snapshots.list(query)
        last = await last_before_more(
            found,
            limit,
            lambda one: control.snapshots.list(replace(query, after=(one.created_at, one.id), limit=1)),
        )
        if last is not None:
            response.headers["X-Next-Token"] = encode_snapshot_cursor(last)
        return [_shown(snapshot) for snapshot in found]

    return routes


def _shown(snapshot: Snapshot) -> SnapshotInfo:
    names = [] if snapshot.name is None else [f"{snapshot.team_id}/{snapshot.name}:default"]
    return SnapshotInfo(snapshotID=f"{snapshot.id}:default", names=names)


def _result(control: Control, reach: Reach, made: Sandbox | AtollError, request_id: str) -> ForkResult:
    if isinstance(made, AtollError):
        return ForkResult(error=ForkError(**body_of(answer_to(made, request_id))))
    token = control.access_token(made.id)
    return ForkResult(sandbox=from_sandbox(made, token, reach, control.traffic_token(made)))
