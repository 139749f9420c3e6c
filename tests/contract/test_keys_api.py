"""Teams, API keys and access tokens, as E2B's own programs call them, and as ours do."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox as E2BSandbox
from e2b.exceptions import AuthenticationException
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
