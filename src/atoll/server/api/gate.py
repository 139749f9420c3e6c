"""
The one way in: every request passes here before a dialect sees it.

Bounds its size and time, asks who calls and counts it, gives it an id, and turns what a dialect let through
into an answer.
Whatever path is not named as open needs a key, one that does not exist too.
A call with a body ends when its caller goes away, like one that takes too long: verbs undo what they were
doing when they are cancelled, so that nothing is left of which nobody knows.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atoll.server.api.errors import Answer, answer, answer_to, new_request_id
from atoll.server.api.limits import ApiLimits
from atoll.server.api.pace import Pace
from atoll.server.control.requests import Actor
from atoll.server.domain.errors import Code, DeadlineExceededError

log = structlog.get_logger(__name__)

Authenticate = Callable[[str | None], Awaitable[Actor]]

# Nothing is left of these; they are most of all calls, and the watch costs some.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """
    A language that callers speak.

    Attributes:
        app: answers its requests; finds who calls in ``scope["state"]["actor"]``.
        prefixes: the paths that are its own; the longest wins, and the last dialect takes the rest.
        open_paths: need no key.
        open_prefixes: nothing below needs a key.
        render: gives an error its form.
    """

    app: ASGIApp
    prefixes: tuple[str, ...] = ()
    open_paths: frozenset[str] = frozenset()
    open_prefixes: tuple[str, ...] = ()
    render: Callable[[Answer], JSONResponse]


class Gate:
    """An ASGI app around dialects."""

    def __init__(self, dialects: Sequence[Dialect], authenticate: Authenticate, limits: ApiLimits) -> None:
        self.dialects = tuple(dialects)
        self._authenticate = authenticate
        self._limits = limits
        self._pace = Pace(window_seconds=limits.rate_window_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        assert scope["type"] == "http", "websockets and lifespan are off, see limits.server_options"
        passage = _Passage(receive, send, self._limits.body_bytes)
        dialect = self._dialect_of(scope["path"])
        request_id = new_request_id()
        passage.request_id = request_id
        scope.setdefault("state", {})["request_id"] = request_id
        try:
            async with asyncio.timeout(self._limits.request_seconds) as bound:
                refusal = await self._admit(scope, dialect, passage)
                if refusal is None:
                    await self._serve(dialect, scope, passage, bound)
                    return
        except TimeoutError as error:
            if passage.abandoned:
                log.info("call ended: its caller went away", request_id=request_id, path=scope["path"][:256])
                return
            late = DeadlineExceededError(f"the call took longer than {self._limits.request_seconds:g} s")
            late.__cause__ = error
            refusal = answer_to(late, request_id)
        except Exception as error:  # the last wall: logged and answered
            refusal = answer_to(error, request_id)
        if not passage.answering:
            await dialect.render(refusal)(scope, receive, passage.send)

    async def _serve(
        self, dialect: Dialect, scope: Scope, passage: "_Passage", bound: asyncio.Timeout
    ) -> None:
        if scope["method"] in _SAFE:
            await dialect.app(scope, passage.receive, passage.send)
            return
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(passage.watch(bound), name="watch for the caller's leaving")
            try:
                await dialect.app(scope, passage.receive, passage.send)
            finally:
                watching.cancel()

    def _dialect_of(self, path: str) -> Dialect:
        fitting = [
            (len(prefix), dialect)
            for dialect in self.dialects
            for prefix in dialect.prefixes
            if path.startswith(prefix)
        ]
        return max(fitting, key=itemgetter(0))[1] if fitting else self.dialects[-1]

    async def _admit(self, scope: Scope, dialect: Dialect, passage: "_Passage") -> Answer | None:
        """Return why a request may not pass, or None."""
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > self._limits.header_bytes:
            text = f"headers are longer than {self._limits.header_bytes} bytes"
            return answer(Code.RESOURCE_EXHAUSTED, text, passage.request_id, 431)
        headers = Headers(scope=scope)
        if not _is_open(dialect, scope["path"]):
            actor = await self._authenticate(presented_key(headers))
            scope["state"]["actor"] = actor
            if (refusal := self._paced(actor, passage)) is not None:
                return refusal
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._limits.body_bytes:
            return answer(Code.RESOURCE_EXHAUSTED, passage.too_long, passage.request_id, 413)
        return None

    def _paced(self, actor: Actor, passage: "_Passage") -> Answer | None:
        """Count a request for its key, or for a team with a limit; every answer tells where that stands."""
        own = actor.limits.requests_per_second
        if own is not None:
            most = max(1, round(own * self._limits.rate_window_seconds))
            standing = self._pace.take(actor.team_id, limit=most)
        elif self._limits.rate_requests > 0:
            standing = self._pace.take((actor.team_id, actor.key_id), limit=self._limits.rate_requests)
        else:
            return None
        told = standing.headers()
        passage.told = [(name.lower().encode(), value.encode()) for name, value in told.items()]
        if standing.passes:
            return None
        text = f"more than {standing.limit} requests in {self._limits.rate_window_seconds:g} s"
        refusal = answer(Code.RESOURCE_EXHAUSTED, text, passage.request_id)
        # Its own word on sending again: later it may pass.
        kept = {name: value for name, value in refusal.headers.items() if name not in told}
        return replace(refusal, headers=kept)


def _is_open(dialect: Dialect, path: str) -> bool:
    return path in dialect.open_paths or path.startswith(dialect.open_prefixes)


def presented_key(headers: Headers) -> str | None:
    """Return the key that a request shows: E2B's header, or a bearer's."""
    key = headers.get("x-api-key")
    if key is not None:
        return key.strip()
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


class _Passage:
    """Counts what comes in, and marks what goes out."""

    request_id: str

    def __init__(self, receive: Receive, send: Send, most_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._most_bytes = most_bytes
        self._received = 0
        self._whole = asyncio.Event()
        self.answering = False
        self.abandoned = False
        # Headers of every answer.
        self.told: list[tuple[bytes, bytes]] = []
        self.too_long = f"the body is longer than {most_bytes} bytes"

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._most_bytes:
            # Starlette's own exception: FastAPI lets no other through while it reads a body.
            raise HTTPException(413, self.too_long)
        if not message.get("more_body", False):
            self._whole.set()
        return message

    async def watch(self, bound: asyncio.Timeout) -> None:
        """End the call when its caller leaves before it is answered; until then, the app reads."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.answering:
            self.abandoned = True
            bound.reschedule(asyncio.get_running_loop().time())

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answering = True
            message["headers"] = [
                *(pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"),
                (b"x-request-id", self.request_id.encode()),
                *self.told,
            ]
        await self._send(message)
