"""A caller who does not wait for the answer: what nobody could know of is undone."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.live_api import KEY, LiveApi, live_api

from atoll.server.domain.sandbox import EndReason, Status

CREATES = {
    "/v2/sandboxes": {"templateID": "base"},
    "/sandboxes": {"templateID": "base"},
    "/v1/sandboxes": {"template": "base"},
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LiveApi]:
    with live_api(tmp_path) as running:
        yield running


@pytest.fixture
def client(api: LiveApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, headers={"X-API-Key": KEY}, timeout=30) as opened:
        yield opened


def ask(api: LiveApi, path: str, method: str = "POST") -> socket.socket:
    """Send a request as a client that may not read the answer."""
    body = json.dumps(CREATES[path]).encode() if path in CREATES else b""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    caller = socket.create_connection(("127.0.0.1", api.port), timeout=30)
    caller.sendall(head.encode() + body)
    return caller


def in_server(api: LiveApi, work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run_coroutine_threadsafe(bounded(), api.loop).result(30)


async def the_end(api: LiveApi) -> tuple[Status, EndReason | None]:
    """Return how the only sandbox ended, once it has."""
    while True:
        (row,) = (await api.world.rows()).values()
        if row.ended_at is not None:
            return row.status, row.end_reason
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("place", ["start:2", "configure"])
@pytest.mark.parametrize("path", CREATES)
def test_a_create_whose_caller_leaves_is_undone(
    api: LiveApi, client: httpx.Client, path: str, place: str
) -> None:
    api.world.faults.hang(place)
    caller = ask(api, path)
    in_server(api, api.world.faults.reached(place))

    caller.close()

    assert in_server(api, the_end(api)) == (Status.FAILED, EndReason.START_INTERRUPTED)
    assert in_server(api, api.world.assert_agreement()) is None
    assert client.get("/v1/sandboxes").json()["sandboxes"] == []


def test_creates_that_wait_for_their_turn_are_forgotten_with_their_callers(
    api: LiveApi, client: httpx.Client
) -> None:
    at_once = api.world.limits.concurrent_starts
    api.world.faults.hang("configure", times=at_once)
    started = [ask(api, "/v2/sandboxes") for _ in range(at_once)]
    # All of them: a hang that none of them took would be the good create's.
    in_server(api, api.world.faults.reached("configure", times=at_once))
    waiting = [ask(api, "/v2/sandboxes") for _ in range(8)]

    # Those that wait leave first: one whose turn came before it left would rightly have its sandbox.
    for caller in [*waiting, *started]:
        caller.close()

    # Behind all of those, if they were still there; the first ones would hang until their limit.
    made = client.post("/v2/sandboxes", json={"templateID": "base"})
    assert made.status_code == 201
    assert [row["sandboxID"] for row in client.get("/sandboxes").json()] == [made.json()["sandboxID"]]


def test_a_kill_whose_caller_leaves_goes_on(api: LiveApi, client: httpx.Client) -> None:
    made = client.post("/v2/sandboxes", json={"templateID": "base"}).json()["sandboxID"]
    api.world.faults.fail("destroy:1", OSError("busy"))
    caller = ask(api, f"/sandboxes/{made}", "DELETE")
    world, pause = api.world, api.world.limits.destroy_retry_delay
    in_server(api, world.clock.slept_until(world.clock.now() + pause))

    caller.close()
    api.loop.call_soon_threadsafe(world.clock.advance, pause)

    assert in_server(api, the_end(api)) == (Status.KILLED, EndReason.KILLED)
    assert client.get(f"/sandboxes/{made}").status_code == 404


def test_a_caller_who_waits_gets_what_he_asked_for(api: LiveApi, client: httpx.Client) -> None:
    with ask(api, "/v2/sandboxes") as caller:
        answer = caller.recv(65536)

    assert answer.startswith(b"HTTP/1.1 201")
    assert len(client.get("/sandboxes").json()) == 1
