"""Teams, API keys and access tokens, as E2B's own programs call them, and as ours do."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox as E2BSandbox
from e2b.exceptions import AuthenticationException, RateLimitException
from fakes.live_api import LiveApi, live_api
from support.home import ATOLL

import atoll
from atoll.server.domain.keys import KeyKind, new_key

HOME = new_key(KeyKind.HOME)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(Path(tmp_path_factory.mktemp("keys")), home_key=HOME) as opened:
        yield opened


@pytest.fixture
def home(api: LiveApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {HOME}"}) as client:
        yield client


def test_an_api_key_is_shown_once_and_known_by_its_mask(home: httpx.Client) -> None:
    made = home.post("/api-keys", json={"name": "CI"})
    assert made.status_code == 201
    key = made.json()
    assert re.fullmatch("e2b_[0-9a-f]{40}", key["key"])
    random = key["key"].removeprefix("e2b_")
    assert key["mask"] == {
        "prefix": "e2b_",
        "valueLength": 40,
        "maskedValuePrefix": random[:2],
        "maskedValueSuffix": random[-4:],
    }
    assert (key["name"], key["createdBy"], key["lastUsed"]) == ("CI", None, None)

    listed = {one["id"]: one for one in home.get("/api-keys").json()}
    assert listed[key["id"]] == {name: value for name, value in key.items() if name != "key"}
    assert home.patch(f"/api-keys/{key['id']}", json={"name": "CI 2"}).status_code == 200
    assert [one["name"] for one in home.get("/api-keys").json() if one["id"] == key["id"]] == ["CI 2"]
    assert home.delete(f"/api-keys/{key['id']}").status_code == 204
    gone = home.delete(f"/api-keys/{key['id']}")
    assert (gone.status_code, gone.json()["code"]) == (404, 404)


def test_an_access_token_manages_the_keys_of_its_team(api: LiveApi, home: httpx.Client) -> None:
    made = home.post("/access-tokens", json={"name": "laptop"})
    assert made.status_code == 201
    token = made.json()
    assert token["token"].startswith("sk_e2b_")
    with httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {token['token']}"}) as bearer:
        [team] = bearer.get("/teams").json()
        assert team == {"teamID": "default", "name": "default", "apiKey": "", "isDefault": True}
        assert bearer.post("/api-keys", json={"name": "a"}).status_code == 201
        # One kind is not revoked by the other's call.
        assert bearer.delete(f"/api-keys/{token['id']}").status_code == 404
        assert bearer.delete(f"/access-tokens/{token['id']}").status_code == 204
        assert bearer.get("/teams").status_code == 401


def test_an_api_key_manages_none_but_tells_its_team(api: LiveApi, home: httpx.Client) -> None:
    key = home.post("/api-keys", json={"name": "program"}).json()["key"]
    with httpx.Client(base_url=api.url, headers={"X-API-Key": key}) as program:
        refused = program.post("/api-keys", json={"name": "more"})
        assert refused.status_code == 403
        assert "access token" in refused.json()["message"]
        assert program.get("/teams").json() == [
            {"teamID": "default", "name": "default", "apiKey": key, "isDefault": True}
        ]


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "x" * 101}, {"name": 7}, {"name": "\x1b"}])
def test_a_bad_name_is_refused(home: httpx.Client, body: dict[str, object]) -> None:
    for path in ("/api-keys", "/access-tokens", "/v1/keys", "/v1/teams"):
        assert home.post(path, json=body).status_code == 400, path


def test_the_released_client_works_with_a_teams_key_until_it_is_revoked(api: LiveApi) -> None:
    team = atoll.Team.create("research", api_url=api.url, api_key=HOME)
    made = atoll.Team.create_key("e2b", team=team.name, api_url=api.url, api_key=HOME)
    options = {"api_key": made.key, "api_url": api.url}
    ours = E2BSandbox.create("base", timeout=60, **options)
    foreign = E2BSandbox.create("base", timeout=60, api_key=HOME, api_url=api.url)

    [page] = [E2BSandbox.list(**options).next_items()]
    assert [one.sandbox_id for one in page] == [ours.sandbox_id]
    assert not E2BSandbox.kill(foreign.sandbox_id, **options)
    [listed] = atoll.Team.keys("research", api_url=api.url, api_key=HOME)
    assert listed.id == made.info.id
    assert listed.last_used_at is not None
    assert made.key not in repr(made)

    atoll.Team.revoke_key(made.info.id, api_url=api.url, api_key=HOME)
    with pytest.raises(AuthenticationException):
        E2BSandbox.list(**options).next_items()
    with pytest.raises(atoll.UnauthenticatedError):
        atoll.Team.list(api_url=api.url, api_key=made.key)
    assert E2BSandbox.kill(foreign.sandbox_id, api_key=HOME, api_url=api.url)


def test_the_command_line_makes_teams_and_keys(api: LiveApi) -> None:
    env = {**os.environ, "ATOLL_API_URL": api.url, "ATOLL_API_KEY": HOME, "COLUMNS": "200"}

    def run(*words: str) -> str:
        done = subprocess.run([ATOLL, *words], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    team_id = run("team", "create", "tools")
    key = run("key", "create", "nightly", "--team", "tools")
    token = run("key", "create", "admin", "--team", team_id, "--access-token")

    assert key.startswith("e2b_")
    assert token.startswith("sk_e2b_")
    assert "tools" in run("team", "list")
    shown = run("key", "list", "--team", "tools")
    assert "nightly" in shown
    assert key not in shown
    assert f"{key[:6]}...{key[-4:]}" in shown
    ids = {one.name: one.id for one in atoll.Team.keys("tools", api_url=api.url, api_key=token)}
    run("key", "revoke", ids["nightly"])
    assert [one.name for one in atoll.Team.keys("tools", api_url=api.url, api_key=token)] == ["admin"]
    with pytest.raises(atoll.PermissionDeniedError):
        atoll.Team.create("mine", api_url=api.url, api_key=token)


def team_with_a_key(api: LiveApi, name: str) -> dict[str, Any]:
    """Make a team; return what a client with its key is made of."""
    atoll.Team.create(name, api_url=api.url, api_key=HOME)
    made = atoll.Team.create_key("k", team=name, api_url=api.url, api_key=HOME)
    return {"api_key": made.key, "api_url": api.url}


def test_a_team_is_deleted_when_it_has_nothing_or_by_force(api: LiveApi) -> None:
    home = {"api_key": HOME, "api_url": api.url}
    member = team_with_a_key(api, "short/lived ü")
    sandbox = atoll.Sandbox.create(**member)
    with pytest.raises(atoll.FailedPreconditionError, match="has 1 sandbox"):
        atoll.Team.delete("short/lived ü", **home)
    for error, options, name in (
        (atoll.PermissionDeniedError, member, "short/lived ü"),
        (atoll.NotFoundError, member, "default"),
        (atoll.NotFoundError, home, "nobody"),
        (atoll.FailedPreconditionError, home, "default"),
    ):
        with pytest.raises(error):
            atoll.Team.delete(name, force=True, **options)
    assert [one.deleting for one in atoll.Team.list(**member)] == [False]

    atoll.Team.delete("short/lived ü", force=True, **home)

    assert "short/lived ü" not in [one.name for one in atoll.Team.list(**home)]
    with pytest.raises(atoll.UnauthenticatedError):
        sandbox.info()
    with pytest.raises(AuthenticationException):
        E2BSandbox.list(**member).next_items()
    sandbox.close()


async def test_the_client_for_asyncio_limits_and_deletes_too(api: LiveApi) -> None:
    home = {"api_key": HOME, "api_url": api.url}
    team = await atoll.AsyncTeam.create("async", **home)

    limited = await atoll.AsyncTeam.set_limits(team.id, atoll.TeamLimits(max_sandboxes=3), **home)
    await atoll.AsyncTeam.delete("async", **home)

    assert limited == replace(team, limits=atoll.TeamLimits(max_sandboxes=3))
    assert team.id not in [one.id for one in await atoll.AsyncTeam.list(**home)]


def test_limits_of_a_team_hold_for_e2bs_client_and_are_told_in_its_words(api: LiveApi) -> None:
    home = {"api_key": HOME, "api_url": api.url}
    member = team_with_a_key(api, "small")
    atoll.Team.set_limits("small", atoll.TeamLimits(max_sandboxes=1, max_memory_bytes=2**30), **home)
    first = E2BSandbox.create("base", timeout=60, **member)

    began = time.monotonic()
    with pytest.raises(RateLimitException, match=r"maximum number of concurrent E2B sandboxes \(1\)"):
        E2BSandbox.create("base", timeout=60, **member)
    # A refusal for good is not sent again by the client.
    assert time.monotonic() - began < 10
    with pytest.raises(atoll.ResourceExhaustedError, match="concurrent sandboxes"):
        atoll.Sandbox.create(**member)
    with pytest.raises(atoll.InvalidArgumentError, match="1024 MiB"):
        atoll.Sandbox.create(memory_mb=1025, **member)
    with pytest.raises(atoll.PermissionDeniedError):
        atoll.Team.set_limits("small", atoll.TeamLimits(), **member)
    with pytest.raises(atoll.InvalidArgumentError, match="Memory must be"):
        atoll.Team.set_limits("small", atoll.TeamLimits(max_memory_bytes=1), **home)
    assert E2BSandbox.kill(first.sandbox_id, **member)
    E2BSandbox.create("base", timeout=60, **member).kill()


def test_limits_are_changed_one_by_one_over_http(api: LiveApi, home: httpx.Client) -> None:
    atoll.Team.create("patched", api_url=api.url, api_key=HOME)
    unset = dict.fromkeys(("max_sandboxes", "max_cpus", "max_memory_bytes", "requests_per_second"))

    first = home.patch("/v1/teams/patched", json={"limits": {"max_sandboxes": 2, "max_cpus": 0.5}})
    second = home.patch("/v1/teams/patched", json={"limits": {"max_cpus": None}})
    nothing = home.patch("/v1/teams/patched", json={})

    assert first.json()["limits"] == {**unset, "max_sandboxes": 2, "max_cpus": 0.5}
    assert second.json()["limits"] == nothing.json()["limits"] == {**unset, "max_sandboxes": 2}
    for body in ({"limits": {"max_sandboxes": -1}}, {"limits": {"max_cpu": 1}}, {"name": "x"}):
        assert home.patch("/v1/teams/patched", json=body).status_code == 400, body


def test_the_command_line_limits_and_deletes_teams(api: LiveApi) -> None:
    env = {**os.environ, "ATOLL_API_URL": api.url, "ATOLL_API_KEY": HOME, "COLUMNS": "200"}

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run([ATOLL, *words], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        return (done.stdout + done.stderr).strip()

    team_with_a_key(api, "bounded")
    before = run("team", "limits", "bounded")
    set_once = run("team", "limits", "bounded", "--sandboxes", "5", "--memory", "256", "--requests", "9")
    run("team", "limits", "bounded", "--sandboxes", "server", "--cpus", "0.5")
    told = json.loads(run("team", "limits", "bounded", "--json"))["limits"]

    assert before.count("as the server has it") == 4
    assert "sandboxes  5" in set_once
    assert "256.0 MiB" in set_once
    assert "9 per second" in set_once
    assert told == {
        "max_sandboxes": None, "max_cpus": 0.5, "max_memory_bytes": 256 * 2**20, "requests_per_second": 9,
    }  # fmt: skip
    assert "NUMBER" not in run("team", "limits", "--help")
    assert "'many' is not" in run("team", "limits", "bounded", "--sandboxes", "many", code=2)
    assert "not found" in run("team", "limits", "nobody", code=1)
    volume = atoll.Volume.create("kept", **team_with_a_key(api, "busy"))
    volume.close()
    assert "has 1 volume" in run("team", "delete", "busy", code=1)
    run("team", "delete", "busy", "--force")
    run("team", "delete", "bounded")
    names = run("team", "list")
    assert "busy" not in names
    assert "bounded" not in names
