"""Routes of our own API about sandboxes."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Response

from atoll.server.api.cursor import decode_cursor, encode_cursor
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.rest import models
from atoll.server.api.rest.form import problems, render
from atoll.server.api.rest.translate import from_sandbox, to_egress, to_metadata, to_wish
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.ports.store import MOST_ROWS, Page, SandboxFilter

SandboxId = Annotated[str, Path(description="The sandbox's id.", examples=["i3k9d0q2mz7w1x5c8v4bn"])]


def router(control: Control, domain: str) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/v1/sandboxes", tags=["sandboxes"], route_class=route_class(render))
    calls = _Calls(control, domain)
    routes.post(
        "", status_code=201, summary="Create a sandbox", responses=problems(400, 404, 409, 413, 429, 503, 504)
    )(calls.create_sandbox)
    routes.get("", summary="List sandboxes", responses=problems(400))(calls.list_sandboxes)
    one = "/{sandbox_id}"
    not_found = problems(400, 404)
    routes.get(one, summary="Get a sandbox", responses=not_found)(calls.get_sandbox)
    routes.delete(one, summary="Kill a sandbox", responses=problems(400, 404, 503))(calls.kill_sandbox)
    routes.post(f"{one}/timeout", summary="Set the deadline", responses=problems(400, 404, 409))(
        calls.set_timeout
    )
    slept = problems(400, 404, 409, 413, 429, 503, 504)
    routes.post(f"{one}/pause", summary="Pause a sandbox", responses=slept)(calls.pause_sandbox)
    routes.post(f"{one}/resume", summary="Resume a sandbox", responses=slept)(calls.resume_sandbox)
    routes.put(f"{one}/network", summary="Replace the network rules", responses=problems(400, 404, 503))(
        calls.set_network
    )
    routes.get(f"{one}/usage", summary="Get what a sandbox uses", responses=not_found)(calls.get_usage)
    routes.get(f"{one}/memory-kills", summary="List processes killed for memory", responses=not_found)(
        calls.list_memory_kills
    )
    return routes


class _Calls:
    """Each method is one route; its docstring is in the API's documentation."""

    def __init__(self, control: Control, domain: str) -> None:
        self._control = control
        self._domain = domain

    async def create_sandbox(
        self,
        actor: Caller,
        body: models.CreateSandbox,
        answer: Response,
        idempotency_key: Annotated[
            str | None, Header(description="1 to 255 of a-z, 0-9, -. Sent again, it gets the same sandbox.")
        ] = None,
    ) -> models.Sandbox:
        """Create a sandbox and wait until it takes commands."""
        sandbox = await self._control.create(actor, replace(to_wish(body), request_key=idempotency_key))
        # The edge reads it, too, and prepares for the first request.
        answer.headers["Location"] = f"/v1/sandboxes/{sandbox.id}"
        return self._owned(sandbox)

    async def list_sandboxes(
        self,
        actor: Caller,
        status: Annotated[
            list[Status] | None, Query(description="One of these; left out: those that are not ended.")
        ] = None,
        metadata: Annotated[
            list[str] | None, Query(description="key=value; all of them must match.", examples=["user=ada"])
        ] = None,
        template: Annotated[str | None, Query(max_length=256, description="Name or id.")] = None,
        started_after: Annotated[
            datetime | None, Query(description="Only starts at that time or later.")
        ] = None,
        order: Annotated[Literal["newest_first", "oldest_first"], Query()] = "newest_first",
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
        page_token: Annotated[str | None, Query(description="From the page before.")] = None,
    ) -> models.SandboxPage:
        """List your sandboxes, a page at a time."""
        if started_after is not None and started_after.tzinfo is None:
            raise InvalidArgumentError("query started_after: must have a time zone")
        newest_first = order == "newest_first"
        after = decode_cursor(page_token, newest_first=newest_first) if page_token else None
        wanted = SandboxFilter(
            statuses=frozenset(status) if status else None,
            metadata=to_metadata(metadata or ()),
            template=template or None,
            started_after=started_after,
        )
        page = await self._control.list(
            actor, wanted, Page(limit=limit, after=after, newest_first=newest_first)
        )
        return models.SandboxPage(
            sandboxes=[from_sandbox(one, domain=self._domain, token=None) for one in page.sandboxes],
            next_page_token=page.next and encode_cursor(page.next, newest_first=newest_first),
            total=await self._control.count(actor, wanted),
        )

    async def get_sandbox(self, actor: Caller, sandbox_id: SandboxId) -> models.Sandbox:
        """Get a sandbox. One that ended is still found for some days, and says why it ended."""
        return self._owned(await self._control.get(actor, sandbox_id, ended=True))

    async def kill_sandbox(self, actor: Caller, sandbox_id: SandboxId) -> models.Sandbox:
        """End a sandbox at once, and return when nothing of it is left."""
        return self._owned(await self._control.kill(actor, sandbox_id))

    async def set_timeout(
        self, actor: Caller, sandbox_id: SandboxId, body: models.SetTimeout
    ) -> models.Sandbox:
        """Set when a sandbox is killed, or paused if it was created so; counted from now."""
        verb = self._control.refresh if body.extend_only else self._control.set_timeout
        return self._owned(await verb(actor, sandbox_id, timedelta(seconds=body.timeout_seconds)))

    async def pause_sandbox(
        self, actor: Caller, sandbox_id: SandboxId, body: models.PauseSandbox | None = None
    ) -> models.Sandbox:
        """Write a running sandbox to the disk and end its processes, until it is resumed."""
        with_memory = body is None or body.memory
        kind = CheckpointKind.MEMORY if with_memory else CheckpointKind.FILES
        return self._owned(await self._control.pausing.pause(actor, sandbox_id, kind))

    async def resume_sandbox(
        self, actor: Caller, sandbox_id: SandboxId, body: models.ResumeSandbox, answer: Response
    ) -> models.Sandbox:
        """Have a paused sandbox go on; one that runs lives at least so long from now."""
        lifetime = timedelta(seconds=body.timeout_seconds)
        sandbox, resumed = await self._control.pausing.connect(
            actor, sandbox_id, lifetime, memory=body.memory
        )
        if resumed:
            answer.headers["Location"] = f"/v1/sandboxes/{sandbox.id}"
        return self._owned(sandbox)

    async def set_network(
        self, actor: Caller, sandbox_id: SandboxId, body: models.SetNetwork
    ) -> models.Sandbox:
        """Replace what a running sandbox reaches; on return it reaches nothing else any more."""
        return self._owned(await self._control.set_egress(actor, sandbox_id, to_egress(body.internet, body)))

    async def get_usage(self, actor: Caller, sandbox_id: SandboxId) -> models.Usage:
        """Read what a running sandbox uses now, from outside, without waking it."""
        usage = await self._control.usage(actor, sandbox_id)
        return models.Usage(
            cpu_seconds=usage.cpu_seconds, memory_bytes=usage.memory_bytes, disk_bytes=usage.disk_bytes
        )

    async def list_memory_kills(self, actor: Caller, sandbox_id: SandboxId) -> list[models.MemoryKill]:
        """List the last processes inside that were killed because the sandbox ran out of memory."""
        return [
            models.MemoryKill(pid=one.pid, command=one.command, resident_bytes=one.resident_bytes)
            for one in await self._control.memory_kills(actor, sandbox_id)
        ]

    def _owned(self, sandbox: Sandbox) -> models.Sandbox:
        return from_sandbox(
            sandbox,
            domain=self._domain,
            token=self._control.access_token(sandbox.id),
            traffic_token=self._control.traffic_token(sandbox),
        )
