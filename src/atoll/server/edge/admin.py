"""
What the edge is told and asked, over its socket in the home.

One connection a question: a kept one would be the old edge's after a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from atoll.server.domain.ids import SandboxId


@dataclass(frozen=True, kw_only=True)
class EdgeStatus:
    """
    What an edge says about itself.

    Attributes:
        version: of the program.
        pid: its process.
        listen: the addresses it serves clients on.
        tls_listen: those that it serves clients on over TLS.
        started_at: RFC 3339.
        routes: sandboxes whose address it knows.
        connections: clients that are connected.
        certificate: what clients are shown over TLS, and why there is no better one; None without TLS.
        flags: what it was started with, by name.
    """

    version: str
    pid: int
    listen: tuple[str, ...]
    tls_listen: tuple[str, ...]
    started_at: str
    routes: int
    connections: int
    certificate: Mapping[str, Any] | None
    flags: Mapping[str, Any]


class EdgeAdmin:
    """Calls ``run/edge.sock``; every method raises httpx.HTTPError when there is no good answer in time."""

    def __init__(self, socket: Path) -> None:
        self._client = httpx.AsyncClient(
            base_url="http://edge",
            transport=httpx.AsyncHTTPTransport(
                uds=str(socket), limits=httpx.Limits(max_connections=64, max_keepalive_connections=0)
            ),
        )

    async def status(self, *, timeout_s: float) -> EdgeStatus:
        """Ask who it is."""
        answer = await self._client.get("/v1/status", timeout=timeout_s)
        try:
            fields = answer.raise_for_status().json()
            lists = {name: tuple(fields[name] or ()) for name in ("listen", "tls_listen")}
            return EdgeStatus(**{**fields, **lists})
        except (ValueError, TypeError, KeyError) as error:
            raise httpx.DecodingError(f"not an edge's status: {error}") from error

    async def forget(self, sandbox_id: SandboxId, *, timeout_s: float) -> None:
        """Have it forget a route; it answers when the connections are cut."""
        answer = await self._client.delete(f"/v1/routes/{sandbox_id}", timeout=timeout_s)
        answer.raise_for_status()

    async def ask_again(self, sandbox_id: SandboxId, *, timeout_s: float) -> None:
        """Have it ask us at the next request for a sandbox; what is under way goes on."""
        answer = await self._client.post(f"/v1/routes/{sandbox_id}/ask-again", timeout=timeout_s)
        answer.raise_for_status()

    async def retire(self, sandbox_id: SandboxId, *, idle_s: float, timeout_s: float) -> float:
        """Have it forget a route that was not used for so long; return how many seconds are left."""
        idle = {"idle_ms": round(idle_s * 1000)}
        answer = await self._client.post(f"/v1/routes/{sandbox_id}/retire", json=idle, timeout=timeout_s)
        try:
            return int(answer.raise_for_status().json()["left_ms"]) / 1000
        except (ValueError, TypeError, KeyError) as error:
            raise httpx.DecodingError(f"not an edge's answer: {error}") from error

    async def forget_egress(self, sandbox_id: SandboxId, *, unless: str, timeout_s: float) -> None:
        """Have it forget what a sandbox may reach; it answers when what it carried is cut."""
        known = {"unless": unless} if unless else {}
        answer = await self._client.delete(f"/v1/egress/{sandbox_id}", params=known, timeout=timeout_s)
        answer.raise_for_status()

    async def judge_upstream(self, host: str, *, timeout_s: float) -> str | None:
        """Ask whether a proxy may be at a host; return why not."""
        answer = await self._client.post("/v1/upstreams", json={"host": host}, timeout=timeout_s)
        if answer.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
            answer.raise_for_status()
            return None
        try:
            return str(answer.json()["message"])
        except (ValueError, TypeError, KeyError) as error:
            raise httpx.DecodingError(f"not an edge's refusal: {error}") from error

    async def stop(self, *, timeout_s: float) -> None:
        """Ask it to end; it answers before it does."""
        answer = await self._client.post("/v1/stop", timeout=timeout_s)
        answer.raise_for_status()

    async def close(self) -> None:
        """Free what the client holds."""
        await self._client.aclose()
