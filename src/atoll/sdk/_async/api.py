"""Calls of the control API: JSON over HTTP, answers as the SDK's models. Nothing here knows the daemon."""

import builtins
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import httpx

from atoll.sdk import stored, wire
from atoll.sdk._synchronization import async_http_client, async_sleep, async_undo
from atoll.sdk.connection import Connection, resolve
from atoll.sdk.errors import AtollError, InternalError, InvalidArgumentError
from atoll.sdk.models import (
    Collection,
    KeyInfo,
    LogLine,
    MemoryKill,
    Metric,
    NewKey,
    PoolInfo,
    SandboxInfo,
    SecretInfo,
    SnapshotInfo,
    TeamInfo,
    TeamLimits,
    TemplateInfo,
    Usage,
    VolumeInfo,
)
from atoll.sdk.transport import Repeats, error_from_response, map_http_errors

# Rows that one call lists at most: the server's own bound.
_PAGE = 1000


class AsyncApi:
    """One Atoll's control API."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._http = async_http_client(connection.api_url, connection.request_timeout)
        self._http.headers["Authorization"] = f"Bearer {connection.api_key}"

    def __repr__(self) -> str:
        return f"<AsyncApi {self.connection.api_url}>"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def create(self, wish: Mapping[str, Any], name: str | None = None) -> wire.OwnedSandbox:
        """Create a sandbox; the call has a name, and is sent again under it when its answer was lost."""
        headers = {"Idempotency-Key": uuid.uuid4().hex if name is None else wire.call_name(name)}
        repeats = Repeats()
        while True:
            try:
                response = await self._send("POST", "/v1/sandboxes", json=wish, headers=headers)
            except AtollError as error:
                if not repeats.after_error(error):
                    raise
            else:
                if not repeats.after_answer(response.status_code, response.headers):
                    return wire.sandbox(_content(response))
            await async_sleep(repeats.pause())

    async def get(self, sandbox_id: str) -> wire.OwnedSandbox:
        """Read a sandbox; one that ended is found for some days."""
        return wire.sandbox(await self._call("GET", _path(sandbox_id)))

    async def kill(self, sandbox_id: str) -> wire.OwnedSandbox:
        """End a sandbox."""
        return wire.sandbox(await self._call("DELETE", _path(sandbox_id)))

    async def set_timeout(self, sandbox_id: str, seconds: int, *, extend_only: bool) -> wire.OwnedSandbox:
        """Set a deadline, counted from now."""
        body = {"timeout_seconds": seconds, "extend_only": extend_only}
        return wire.sandbox(await self._call("POST", _path(sandbox_id, "/timeout"), json=body))

    async def pause(self, sandbox_id: str, *, memory: bool) -> wire.OwnedSandbox:
        """Pause a sandbox."""
        return wire.sandbox(await self._call("POST", _path(sandbox_id, "/pause"), json={"memory": memory}))

    async def resume(self, sandbox_id: str, seconds: int, *, memory: bool = True) -> wire.OwnedSandbox:
        """Resume a sandbox, or have it live so long."""
        body = {"timeout_seconds": seconds, "memory": memory}
        return wire.sandbox(await self._call("POST", _path(sandbox_id, "/resume"), json=body))

    async def set_network(self, sandbox_id: str, body: Mapping[str, Any]) -> wire.OwnedSandbox:
        """Replace what a sandbox may reach."""
        return wire.sandbox(await self._call("PUT", _path(sandbox_id, "/network"), json=body))

    async def usage(self, sandbox_id: str) -> Usage:
        """Read what a sandbox uses."""
        return wire.usage(await self._call("GET", _path(sandbox_id, "/usage")))

    async def memory_kills(self, sandbox_id: str) -> list[MemoryKill]:
        """List processes that were killed for memory."""
        return wire.memory_kills(await self._call("GET", _path(sandbox_id, "/memory-kills")))

    async def metrics(self, sandbox_id: str, query: Mapping[str, Any]) -> list[Metric]:
        """List what a sandbox used."""
        return wire.metrics(await self._call("GET", _path(sandbox_id, "/metrics"), params=query))

    async def logs(self, sandbox_id: str, query: Mapping[str, Any]) -> list[LogLine]:
        """Read a sandbox's log."""
        return wire.log_lines(await self._call("GET", _path(sandbox_id, "/logs"), params=query))

    async def templates(self) -> list[TemplateInfo]:
        """List templates."""
        return wire.templates(await self._call("GET", "/v1/templates"))

    async def snapshot(self, sandbox_id: str, name: str | None, *, memory: bool) -> SnapshotInfo:
        """Take a snapshot."""
        body = {"name": name, "memory": memory}
        return wire.snapshot(await self._call("POST", _path(sandbox_id, "/snapshots"), json=body))

    async def fork(
        self, sandbox_id: str, count: int, seconds: int
    ) -> builtins.list[wire.OwnedSandbox | AtollError]:
        """Fork a sandbox."""
        body = {"count": count, "timeout_seconds": seconds}
        return wire.forks(await self._call("POST", _path(sandbox_id, "/fork"), json=body))

    async def snapshots(self, query: Mapping[str, Any]) -> builtins.list[SnapshotInfo]:
        """List snapshots, all pages."""
        found: builtins.list[SnapshotInfo] = []
        token: str | None = None
        while True:
            params = {**query, **({"page_token": token} if token else {})}
            page, token = wire.snapshot_page(await self._call("GET", "/v1/snapshots", params=params))
            found += page
            if not token:
                return found

    async def delete_snapshot(self, reference: str) -> None:
        """Delete a snapshot."""
        await self._call("DELETE", _named("snapshots", reference))

    async def collect(self, dry_run: bool) -> Collection:
        """Remove what nobody needs."""
        return wire.collection(await self._call("POST", "/v1/collections", json={"dry_run": dry_run}))

    async def pools(self) -> builtins.list[PoolInfo]:
        """List pools."""
        return [wire.pool(one) for one in await self._call("GET", "/v1/pools")]

    async def create_volume(self, name: str) -> stored.OpenedVolume:
        """Create a volume."""
        return stored.opened_volume(await self._call("POST", "/v1/volumes", json={"name": name}))

    async def get_volume(self, reference: str) -> stored.OpenedVolume:
        """Read a volume, and what opens its contents."""
        return stored.opened_volume(await self._call("GET", _named("volumes", reference)))

    async def volumes(self) -> builtins.list[VolumeInfo]:
        """List volumes, all pages."""
        found: builtins.list[VolumeInfo] = []
        token: str | None = None
        while True:
            params = {"page_token": token} if token else {}
            page, token = stored.volume_page(await self._call("GET", "/v1/volumes", params=params))
            found += page
            if not token:
                return found

    async def delete_volume(self, reference: str) -> None:
        """Delete a volume."""
        await self._call("DELETE", _named("volumes", reference))

    async def create_secret(self, name: str, value: str, metadata: Mapping[str, str]) -> SecretInfo:
        """Keep a secret."""
        body = {"name": name, "value": value, "metadata": dict(metadata)}
        return stored.secret(await self._call("POST", "/v1/secrets", json=body))

    async def get_secret(self, reference: str) -> SecretInfo:
        """Read what is known of a secret."""
        return stored.secret(await self._call("GET", _named("secrets", reference)))

    async def secrets(self) -> builtins.list[SecretInfo]:
        """List secrets, all pages."""
        found: builtins.list[SecretInfo] = []
        token: str | None = None
        while True:
            params = {"page_token": token} if token else {}
            page, token = stored.secret_page(await self._call("GET", "/v1/secrets", params=params))
            found += page
            if not token:
                return found

    async def update_secret(
        self, reference: str, value: str, metadata: Mapping[str, str] | None
    ) -> SecretInfo:
        """Give a secret another value."""
        body = {"value": value, "metadata": None if metadata is None else dict(metadata)}
        return stored.secret(await self._call("PUT", _named("secrets", reference), json=body))

    async def delete_secret(self, reference: str) -> None:
        """Delete a secret."""
        await self._call("DELETE", _named("secrets", reference))

    async def teams(self) -> builtins.list[TeamInfo]:
        """List teams."""
        return [wire.team(one) for one in await self._call("GET", "/v1/teams")]

    async def create_team(self, name: str) -> TeamInfo:
        """Create a team."""
        return wire.team(await self._call("POST", "/v1/teams", json={"name": name}))

    async def limit_team(self, reference: str, limits: TeamLimits) -> TeamInfo:
        """Replace a team's limits."""
        body = {"limits": asdict(limits)}
        return wire.team(await self._call("PATCH", _named("teams", reference), json=body))

    async def delete_team(self, reference: str, *, force: bool) -> None:
        """Delete a team."""
        params = {"force": str(force).lower()}
        await self._call("DELETE", _named("teams", reference), params=params)

    async def keys(self, team: str | None) -> builtins.list[KeyInfo]:
        """List a team's keys."""
        query = {"team": team} if team is not None else {}
        return [wire.key(one) for one in await self._call("GET", "/v1/keys", params=query)]

    async def create_key(self, name: str, kind: str, team: str | None) -> NewKey:
        """Make a key."""
        body = {"name": name, "kind": kind, "team": team}
        return wire.new_key(await self._call("POST", "/v1/keys", json=body))

    async def revoke_key(self, key_id: str) -> None:
        """Take a key back."""
        await self._call("DELETE", f"/v1/keys/{wire.path_word(key_id)}")

    async def list(self, query: Mapping[str, Any]) -> list[SandboxInfo]:
        """List sandboxes, all pages."""
        found: list[SandboxInfo] = []
        token: str | None = None
        while True:
            params = {**query, "limit": _PAGE, **({"page_token": token} if token else {})}
            page, token = wire.sandbox_page(await self._call("GET", "/v1/sandboxes", params=params))
            found += page
            if not token:
                return found

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        return _content(await self._send(method, path, **options))

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            request = self._http.build_request(method, path, **options)
        except (TypeError, ValueError, httpx.InvalidURL) as error:
            # NaN, bytes or half a character, say, which JSON has no form for, or a query of 64 KiB.
            raise InvalidArgumentError(
                "An argument of the call cannot be sent.", details=str(error)
            ) from error
        with map_http_errors(self.connection.api_url):
            return await self._http.send(request)


@asynccontextmanager
async def open_api(
    api_url: str | None, api_key: str | None, request_timeout: float | None
) -> AsyncIterator[AsyncApi]:
    """
    Open it for a call or two, and close its connections.

    Raises:
        InvalidArgumentError: no address, or not one of HTTP; a timeout that is not positive, or
            longer than clocks can tell.
        UnauthenticatedError: no key.
    """
    api = AsyncApi(resolve(api_url, api_key, request_timeout))
    try:
        yield api
    finally:
        await async_undo(api.close)


def _content(response: httpx.Response) -> Any:
    """Read an answer, or raise the error that it is."""
    if response.status_code >= 300:
        raise error_from_response(response.status_code, response.content)
    if response.status_code == 204:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise InternalError(
            "The server's answer is not JSON.", resolution="Is ATOLL_API_URL the address of an Atoll?"
        ) from error


def _named(noun: str, reference: str) -> str:
    return f"/v1/{noun}/{stored.reference(reference)}"


def _path(sandbox_id: str, rest: str = "") -> str:
    return f"/v1/sandboxes/{wire.path_word(sandbox_id)}{rest}"
