"""The HTTP service as E2B's clients know it: checks requests, streams items. Errors are plain text."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from interpreter import languages, limits
from interpreter.context import Context
from interpreter.contexts import HOME, Contexts, TooManyContextsError
from interpreter.items import END_LINE
from interpreter.kernel import KernelEndedError
from interpreter.run import Run

Handler = Callable[["Service", Request], Awaitable[Response]]


class RefusedError(Exception):
    """A request that is answered with a status and a text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Items(Response):
    """A run's items, a line of JSON each; a client that leaves gives the run up."""

    def __init__(self, run: Run) -> None:
        super().__init__(media_type="application/x-ndjson")
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client leaves."""
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        leaving = asyncio.ensure_future(_left(receive))
        sending = asyncio.ensure_future(self._send(send, headers))
        try:
            await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            if not self._run.over:
                self._run.given_up.set()

    async def _send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        started = False
        async for batch in self._run:
            lines = b"".join(batch)
            last = batch[-1] is END_LINE
            if not started:
                # What fits into one write needs no pieces.
                length = [(b"content-length", str(len(lines)).encode())] if last else []
                await send({"type": "http.response.start", "status": 200, "headers": headers + length})
                started = True
            await send({"type": "http.response.body", "body": lines, "more_body": not last})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Service:
    """Answers requests."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    async def health(self, _request: Request) -> Response:
        """Say that it serves."""
        return PlainTextResponse("OK")

    async def execute(self, request: Request) -> Response:
        """Run code, and stream what comes of it."""
        body = await _body(request)
        if not isinstance(body.get("code"), str):
            raise RefusedError(400, "code is missing")
        code = _text(body, "code")
        env = _environment(body.get("env_vars"))
        context = await self._wanted(_text(body, "context_id"), _text(body, "language"))
        return Items(context.run(code, env))

    async def _wanted(self, context_id: str, language: str) -> Context:
        if context_id and language:
            raise RefusedError(400, "Only one of context_id or language can be provided")
        if context_id:
            return self._find(context_id)
        return await self._contexts.own(_language(language))

    def _find(self, context_id: str) -> Context:
        context = self._contexts.get(context_id)
        if context is None:
            raise RefusedError(404, f"Context {context_id[:80]} not found")
        return context

    async def list(self, _request: Request) -> Response:
        """List contexts."""
        return JSONResponse([context.describe() for context in self._contexts.list()])

    async def create(self, request: Request) -> Response:
        """Make a context."""
        body = await _body(request)
        cwd = _text(body, "cwd") or HOME
        await _ensure_enterable(cwd)
        context = await self._contexts.create(_language(_text(body, "language")), cwd)
        return JSONResponse(context.describe())

    async def restart(self, request: Request) -> Response:
        """Give a context a new kernel."""
        context = self._find(request.path_params["id"])
        await _ensure_enterable(context.cwd)
        await context.restart()
        return Response()

    async def remove(self, request: Request) -> Response:
        """Remove a context."""
        await self._contexts.remove(self._find(request.path_params["id"]))
        return Response()


async def _body(request: Request) -> dict[str, Any]:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limits.BODY_BYTES:
            raise RefusedError(413, f"the request is larger than {limits.BODY_BYTES} bytes")
    try:
        body = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        raise RefusedError(400, "the request is not JSON") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "the request is not a JSON object")
    return body


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise RefusedError(400, f"{key} is not a text")
    if value and not _is_whole(value):
        raise RefusedError(400, f"{key} has half a character in it: a surrogate without its other one")
    return value or ""


def _is_whole(text: str) -> bool:
    """Say whether a text can be sent on: JSON can name half a character, which no other encoding can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _ensure_enterable(cwd: str) -> None:
    if not await asyncio.to_thread(os.path.isdir, cwd):
        raise RefusedError(400, f"cwd {cwd[:200]!r} is not a directory")
    if not await asyncio.to_thread(os.access, cwd, os.X_OK):
        raise RefusedError(400, f"cwd {cwd[:200]!r} cannot be entered")


def _language(name: str) -> languages.Language:
    language = languages.find(name or "python")
    if language is None:
        raise RefusedError(400, f"language {name[:40]!r} is not one of {', '.join(languages.NAMES)}")
    return language


def _environment(untrusted: Any) -> dict[str, str]:
    if untrusted is None:
        return {}
    if not isinstance(untrusted, dict) or len(untrusted) > limits.ENV_VARIABLES:
        raise RefusedError(400, f"env_vars is not an object of at most {limits.ENV_VARIABLES} variables")
    for key, value in untrusted.items():
        if not languages.is_variable(key) or not isinstance(value, str) or "\0" in value:
            raise RefusedError(400, f"env_vars: {key[:80]!r} is not a variable with a text")
        if not _is_whole(value):
            raise RefusedError(400, f"env_vars: {key[:80]!r} has a surrogate without its other one")
    if sum(len(key) + len(value) for key, value in untrusted.items()) > limits.ENV_BYTES:
        raise RefusedError(400, f"env_vars are larger than {limits.ENV_BYTES} bytes")
    return untrusted


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return PlainTextResponse(str(error), status_code=error.status)


async def _no_kernel(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"The kernel does not start: {error}", status_code=500)


async def _too_many(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=429)


def make_app(contexts: Contexts) -> Starlette:
    """Make the application."""
    service = Service(contexts)
    return Starlette(
        routes=[
            Route("/health", service.health),
            Route("/execute", service.execute, methods=["POST"]),
            Route("/contexts", service.list, methods=["GET"]),
            Route("/contexts", service.create, methods=["POST"]),
            Route("/contexts/{id}/restart", service.restart, methods=["POST"]),
            Route("/contexts/{id}", service.remove, methods=["DELETE"]),
        ],
        middleware=[
            Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
        ],
        exception_handlers={
            RefusedError: _refused,
            KernelEndedError: _no_kernel,
            TooManyContextsError: _too_many,
        },
    )
