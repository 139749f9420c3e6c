"""Calls of the E2B dialect about sandboxes that Atoll has; each method is one route."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response

from atoll.server.api.cursor import decode_cursor, encode_cursor
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b import models
from atoll.server.api.e2b.form import render
from atoll.server.api.e2b.queries import RUNNING, STATE_OF_STATUS, decode_metadata, decode_states
from atoll.server.api.e2b.translate import (
    Reach,
    from_detailed,
    from_listed,
    from_sandbox,
    to_new_egress,
    to_wish,
)
from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.store import MOST_ROWS, Page, SandboxFilter

# E2B's default, and its most.
_PAGE = 100
# E2B's default of a refresh.
_REFRESH_SECONDS = 15

Metadata = Annotated[str | None, Query()]


def router(control: Control, reach: Reach) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))
    _Listing(control).add_to(routes)
    _Calls(control, reach).add_to(routes)
    return routes


async def _running(control: Control, actor: Actor, untrusted_id: str) -> Sandbox:
    """
    Find a running or paused sandbox: E2B has no word for one that is still being created.

    Raises:
        NotFoundError: there is none.
    """
    sandbox = await control.get(actor, untrusted_id)
    if sandbox.status not in STATE_OF_STATUS:
        raise NotFoundError(f"Sandbox \"{sandbox.id}\" doesn't exist or you don't have access to it")
    return sandbox


class _Calls:
    """Create, get, keep alive, kill."""

    def __init__(self, control: Control, reach: Reach) -> None:
        self._control = control
        self._reach = reach

    def add_to(self, routes: APIRouter) -> None:
        one = "/sandboxes/{sandbox_id}"
        routes.post("/v2/sandboxes", status_code=201, response_model_exclude_none=True)(self.create)
        routes.post("/sandboxes", status_code=201, response_model_exclude_none=True)(self.create_v1)
        routes.get(one, response_model_exclude_none=True)(self.get)
        routes.delete(one, status_code=204, response_class=Response)(self.kill)
        routes.post(f"{one}/timeout", status_code=204, response_class=Response)(self.set_timeout)
        routes.post(f"{one}/refreshes", status_code=204, response_class=Response)(self.refresh)
        routes.put(f"{one}/network", status_code=204, response_class=Response)(self.set_network)
        routes.post(f"/v2{one}/connect", response_model_exclude_none=True)(self.connect)
        routes.post(f"{one}/connect", response_model_exclude_none=True)(self.connect_v1)
        routes.post(f"{one}/resume", status_code=201, response_model_exclude_none=True)(self.resume_v1)
        routes.post(f"{one}/pause", status_code=204, response_class=Response)(self.pause)

    async def create(
        self,
        actor: Caller,
        body: models.NewSandbox,
        answer: Response,
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> models.Sandbox:
        wish = replace(to_wish(body, version=2), request_key=idempotency_key)
        return self._created(await self._control.create(actor, wish), answer)

    async def create_v1(self, actor: Caller, body: models.NewSandbox, answer: Response) -> models.Sandbox:
        return self._created(await self._control.create(actor, to_wish(body, version=1)), answer)

    async def get(self, actor: Caller, sandbox_id: str) -> models.SandboxDetail:
        sandbox = await _running(self._control, actor, sandbox_id)
        return from_detailed(sandbox, self._control.access_token(sandbox.id), self._reach)

    async def kill(self, actor: Caller, sandbox_id: str) -> None:
        await self._control.kill(actor, sandbox_id)

    async def set_timeout(self, actor: Caller, sandbox_id: str, body: models.NewTimeout) -> None:
        await self._control.set_timeout(actor, sandbox_id, timedelta(seconds=body.timeout))

    async def set_network(self, actor: Caller, sandbox_id: str, body: models.NetworkUpdate) -> None:
        await self._control.set_egress(actor, sandbox_id, to_new_egress(body))

    async def refresh(self, actor: Caller, sandbox_id: str, body: models.Refresh | None = None) -> None:
        asked = body.duration if body is not None and body.duration is not None else 0
        await self._control.refresh(actor, sandbox_id, timedelta(seconds=max(asked, _REFRESH_SECONDS)))

    async def connect(
        self, actor: Caller, sandbox_id: str, answer: Response, body: models.Connect | None = None
    ) -> models.Sandbox:
        body = body or models.Connect()
        seconds = models.TIMEOUT_V2 if body.timeout is None else body.timeout
        return await self._connect(actor, sandbox_id, seconds, body, answer)

    async def connect_v1(
        self, actor: Caller, sandbox_id: str, answer: Response, body: models.ConnectV1
    ) -> models.Sandbox:
        return await self._connect(actor, sandbox_id, body.timeout, body, answer)

    async def pause(self, actor: Caller, sandbox_id: str, body: models.Pause | None = None) -> None:
        without = body is not None and body.memory is False
        kind = CheckpointKind.FILES if without else CheckpointKind.MEMORY
        healthy = body is not None and body.requireHealthyGuest is True
        await self._control.pausing.pause(actor, sandbox_id, kind, healthy=healthy)

    async def resume_v1(
        self, actor: Caller, sandbox_id: str, answer: Response, body: models.ResumeV1 | None = None
    ) -> models.Sandbox:
        sandbox = await _running(self._control, actor, sandbox_id)
        if sandbox.status is Status.RUNNING:
            raise FailedPreconditionError(f"Sandbox {sandbox.id} is already running")
        body = body or models.ResumeV1()
        resumed, _ = await self._control.pausing.connect(
            actor,
            sandbox_id,
            timedelta(seconds=models.TIMEOUT_V1 if body.timeout is None else body.timeout),
            memory=body.memory is not False,
            auto_pause=body.autoPause is True,
        )
        return self._created(resumed, answer)

    async def _connect(
        self, actor: Actor, untrusted_id: str, seconds: int, body: models.Connect, answer: Response
    ) -> models.Sandbox:
        try:
            return await self._connected(actor, untrusted_id, seconds, body, answer)
        except NotFoundError:
            sandbox = await self._control.get(actor, untrusted_id, ended=True)
            if sandbox.status is Status.KILLING:
                raise FailedPreconditionError(f"Sandbox {sandbox.id} is being killed") from None
            raise

    async def _connected(
        self, actor: Actor, untrusted_id: str, seconds: int, body: models.Connect, answer: Response
    ) -> models.Sandbox:
        if seconds == 0:  # only asks how to reach it: no time to add
            sandbox = await _running(self._control, actor, untrusted_id)
            if sandbox.status is Status.RUNNING:
                return self._reachable(sandbox)
        sandbox, resumed = await self._control.pausing.connect(
            actor,
            untrusted_id,
            timedelta(seconds=seconds or models.TIMEOUT_V1),
            memory=body.memory is not False,
        )
        if not resumed:
            return self._reachable(sandbox)
        answer.status_code = 201
        return self._created(sandbox, answer)

    def _created(self, sandbox: Sandbox, answer: Response) -> models.Sandbox:
        # The edge reads it, and prepares for the first request.
        answer.headers["Location"] = f"/sandboxes/{sandbox.id}"
        return self._reachable(sandbox)

    def _reachable(self, sandbox: Sandbox) -> models.Sandbox:
        return from_sandbox(
            sandbox,
            self._control.access_token(sandbox.id),
            self._reach,
            self._control.traffic_token(sandbox),
        )


class _Listing:
    """Both lists."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def add_to(self, routes: APIRouter) -> None:
        routes.get("/v2/sandboxes", response_model_exclude_none=True)(self.list_page)
        routes.get("/sandboxes", response_model_exclude_none=True)(self.list_v1)

    async def list_page(
        self,
        actor: Caller,
        response: Response,
        metadata: Metadata = None,
        state: Annotated[list[str] | None, Query()] = None,
        template: Annotated[str | None, Query(max_length=256)] = None,
        startedAfter: Annotated[datetime | None, Query()] = None,
        order: Annotated[Literal["asc", "desc"], Query()] = "desc",
        limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
        nextToken: Annotated[str | None, Query()] = None,
    ) -> list[models.ListedSandbox]:
        newest_first = order == "desc"
        if startedAfter is not None and startedAfter.tzinfo is None:
            raise InvalidArgumentError("query startedAfter: must have a time zone")
        after = decode_cursor(nextToken, newest_first=newest_first) if nextToken else None
        statuses = decode_states(state)
        wanted = SandboxFilter(
            statuses=statuses,
            metadata=decode_metadata(metadata),
            template=template or None,
            started_after=startedAfter,
        )
        if running := statuses & RUNNING:
            total = await self._control.count(actor, replace(wanted, statuses=running))
            response.headers["X-Total-Running"] = str(total)
        page = await self._control.list(
            actor, wanted, Page(limit=limit, after=after, newest_first=newest_first)
        )
        if page.next is not None:
            response.headers["X-Next-Token"] = encode_cursor(page.next, newest_first=newest_first)
        return [from_listed(sandbox) for sandbox in page.sandboxes]

    async def list_v1(self, actor: Caller, metadata: Metadata = None) -> list[models.ListedSandbox]:
        wanted = SandboxFilter(statuses=frozenset({Status.RUNNING}), metadata=decode_metadata(metadata))
        listed: list[models.ListedSandbox] = []
        page = Page(limit=MOST_ROWS)
        while True:  # ends where control's limit of sandboxes does
            part = await self._control.list(actor, wanted, page)
            listed.extend(from_listed(sandbox) for sandbox in part.sandboxes)
            if part.next is None:
                return listed
            page = replace(page, after=part.next)
