"""No call of any dialect shows or changes what is another team's, whichever routes there are."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fakes.apps import public_app
from fakes.teams import add_teams
from fakes.world import World, wish
from fastapi import FastAPI

from atoll.server.api.app import PublicAddress
from atoll.server.api.gate import Gate
from atoll.server.api.limits import ApiLimits
from atoll.server.control.rows import access
from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import KeyKind, make_key, new_key
from atoll.server.domain.sandbox import Sandbox

MARK = "alices"
# What calls ask for, where they do not go without.
QUERIES = {"GET /teams/{team_id}/metrics/max": {"metric": "concurrent_sandboxes"}}
# What routes take that read a body before they look for what it is about; a new one has to be named here.
BODIES: dict[str, dict[str, object]] = {
    "POST /sandboxes/{sandbox_id}/timeout": {"timeout": 7},
    "POST /sandboxes/{sandbox_id}/connect": {"timeout": 7},
    "POST /v2/sandboxes/{sandbox_id}/connect": {"timeout": 7},
    "POST /v1/sandboxes/{sandbox_id}/timeout": {"timeout_seconds": 7},
    "POST /v1/sandboxes/{sandbox_id}/resume": {"timeout_seconds": 7},
    "POST /v1/sandboxes/{sandbox_id}/fork": {"timeout_seconds": 7},
    "PUT /v1/sandboxes/{sandbox_id}/network": {"allow_out": [], "deny_out": []},
    "PUT /sandboxes/{sandbox_id}/network": {},
    "PATCH /events/webhooks/{webhook_id}": {"enabled": False},
    "POST /secrets/{key}": {"value": "v"},
    "PUT /v1/secrets/{reference}": {"value": "v"},
    "PATCH /api-keys/{key_id}": {"name": "n"},
    "PATCH /v1/teams/{team}": {"limits": {"max_sandboxes": 0}},
}
# About no team's things.
COMMON = {"/v1/templates/{name}", "/templates/aliases/{alias}", "/docs/static/{path:path}"}


@dataclass
class Scene:
    """Alice's things, and Bob who wants them."""

    world: World
    gate: Gate
    sandbox: Sandbox
    ids: dict[str, str]
    bob: httpx.AsyncClient


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def scene(world: World) -> AsyncIterator[Scene]:
    async with world.server() as control:
        gate = public_app(world.verbs(control), PublicAddress(domain="localhost"), ApiLimits())
        assert isinstance(gate, Gate)
        await add_teams(world.database, "bobs")
        home, bobs = new_key(KeyKind.HOME), new_key(KeyKind.ACCESS_TOKEN)
        await access.set_home_key(world.api_keys, world.clock, home, name="home")
        record = make_key(bobs, KeyKind.ACCESS_TOKEN, TeamId("bobs"), "bob", world.clock.now())
        await world.api_keys.add_api_key(record, most=10)
        alice = await control.authenticate(home)
        sandbox = await control.create(alice, wish(metadata={MARK: MARK}))
        transport = httpx.ASGITransport(app=gate)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://api", headers={"X-API-Key": home}) as a,
            httpx.AsyncClient(transport=transport, base_url="http://api", headers={"X-API-Key": bobs}) as b,
        ):
            volume = (await a.post("/volumes", json={"name": f"{MARK}-volume"})).json()["volumeID"]
            secret = (await a.post("/secrets", json={"name": f"{MARK}-secret", "value": "v"})).json()
            key = (await a.post("/api-keys", json={"name": f"{MARK}-key"})).json()["id"]
            hook = await a.post(
                "/events/webhooks",
                json={
                    "name": f"{MARK}-hook",
                    "url": "https://example.com",
                    "events": ["sandbox.lifecycle.created"],
                    "signatureSecret": "s" * 32,
                },
            )
            ids = {
                "team": alice.team_id,
                "sandbox": sandbox.id,
                "volume": volume,
                "secret": secret["secretID"],
                "key": key,
                "webhook": hook.json()["id"],
                "snapshot": (await a.post(f"/sandboxes/{sandbox.id}/snapshots", json={})).json()[
                    "snapshotID"
                ],
            }
            yield Scene(world, gate, sandbox, ids, b)


def routes(gate: Gate) -> list[tuple[str, str]]:
    """List every call that there is, by method and path."""
    found = []
    for dialect in gate.dialects:
        assert isinstance(dialect.app, FastAPI)
        paths = dialect.app.openapi()["paths"]
        found += [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return found


def named(ids: dict[str, str], path: str) -> str:
    """Put Alice's ids into a path."""
    start = path.index("{")
    word = path[start + 1 : path.index("}")]
    if word == "key_id" or word == "token_id":
        return path.replace("{" + word + "}", ids["key"])
    noun = {
        "sandbox_id": "sandbox",
        "key": "secret",
        "volume_id": "volume",
        "team": "team",
        "team_id": "team",
    }.get(word)
    if word == "reference":
        noun = path.split("/")[2].removesuffix("s")
    if noun is None:
        noun = "webhook" if "webhook" in word else None
    assert noun is not None, f"which of Alice's things is {word!r} in {path}?"
    return path.replace("{" + word + "}", ids[noun])


async def test_nobody_reaches_what_is_anothers_by_its_id(scene: Scene) -> None:
    tried = 0
    there = routes(scene.gate)
    assert set(BODIES) <= {f"{method} {path}" for method, path in there}
    for method, path in there:
        if "{" not in path or path in COMMON or path.startswith(("/templates/{", "/v2/templates/{")):
            continue
        body = BODIES.get(f"{method} {path}")
        query = QUERIES.get(f"{method} {path}")
        answer = await scene.bob.request(method, named(scene.ids, path), json=body, params=query)
        told = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
        tried += 1
        assert MARK not in answer.text, told
        assert answer.status_code in (404, 501) or answer.json() == [], told
    assert tried > 30
    row = await scene.world.store.get_sandbox(scene.sandbox.id)
    assert row == scene.sandbox


async def test_no_list_names_what_is_anothers(scene: Scene) -> None:
    tried = 0
    for method, path in routes(scene.gate):
        if method != "GET" or "{" in path or path.startswith("/docs"):
            continue
        answer = await scene.bob.get(path, params={"sandbox_ids": scene.sandbox.id})
        tried += 1
        # The team's id is a common word.
        for hidden in {MARK, *scene.ids.values()} - {scene.sandbox.team_id}:
            assert hidden not in answer.text, f"{path}: {answer.text[:300]}"
    assert tried > 10
    for path in ("/v1/teams", "/teams"):
        assert [one["name"] for one in (await scene.bob.get(path)).json()] == ["bobs"]
