"""The page of `e2b auth login`: whom it gives keys, and where it sends them."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from fakes.apps import public_app
from fakes.world import ALICE, World

from atoll.server.api.app import PublicAddress
from atoll.server.api.limits import ApiLimits
from atoll.server.control.owned.keys import Keys
from atoll.server.control.requests import Actor
from atoll.server.control.rows import access
from atoll.server.domain.keys import KeyKind, new_key

PAGE = "/docs/api/cli"
NEXT = "http://localhost:4711"
OWN = {"Origin": "http://api"}
OWNER = Actor(team_id=ALICE.team_id, key_id="owner", key_name="owner", kind=KeyKind.ACCESS_TOKEN)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.server() as control:
        app = public_app(world.verbs(control), PublicAddress(domain="sbx.test"), ApiLimits())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api") as opened:
            yield opened


@pytest.fixture
def keys(world: World) -> Keys:
    return world.keys()


async def sign_in(client: httpx.AsyncClient, key: str, **headers: str) -> httpx.Response:
    return await client.post(PAGE, data={"key": key, "next": NEXT}, headers=OWN | headers)


def told(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 303
    address = urlsplit(answer.headers["location"])
    assert (address.scheme, address.netloc, address.path) == ("http", "localhost:4711", "/")
    return dict(parse_qsl(address.query))


async def test_an_api_key_is_handed_on_and_survives_signing_out(
    client: httpx.AsyncClient, keys: Keys
) -> None:
    _, key = await keys.create(OWNER, "nightly", KeyKind.API_KEY)
    found = told(await sign_in(client, f" {key} "))
    await client.post(found["revokeEndpoint"], data={"token": found["refreshToken"]})
    teams = await client.get("/teams", headers={"Authorization": f"Bearer {found['accessToken']}"})

    assert found == {
        "email": "nightly",
        "accessToken": key,
        "refreshToken": key,
        "tokenEndpoint": "http://api/docs/api/cli/token",
        "revokeEndpoint": "http://api/docs/api/cli/revoke",
        "clientId": "atoll",
    }
    assert [(team["apiKey"], team["isDefault"]) for team in teams.json()] == [(key, True)]


@pytest.mark.parametrize("kind", [KeyKind.ACCESS_TOKEN, KeyKind.HOME])
async def test_what_can_make_keys_stays_here_and_a_key_of_its_own_is_given_and_taken_back(
    client: httpx.AsyncClient, world: World, keys: Keys, kind: KeyKind
) -> None:
    if kind is KeyKind.HOME:
        token = new_key(kind)
        await access.set_home_key(world.api_keys, world.clock, token, name="home")
    else:
        _, token = await keys.create(OWNER, "mine", kind)
    found = told(await sign_in(client, token))
    made = found["accessToken"]
    renewed = await client.post(found["tokenEndpoint"], data={"refresh_token": found["refreshToken"]})
    refused = await client.get("/api-keys", headers={"X-API-Key": made})
    teams = await client.get("/teams", headers={"X-API-Key": made})
    revoked = await client.post(found["revokeEndpoint"], data={"token": found["refreshToken"]})
    after = await client.get("/teams", headers={"X-API-Key": made})
    over = await client.post(found["tokenEndpoint"], data={"refresh_token": found["refreshToken"]})

    assert token not in found.values()
    assert made.startswith("e2b_")
    assert renewed.json()["access_token"] == made
    assert refused.status_code == 403
    assert [(team["apiKey"], team["isDefault"]) for team in teams.json()] == [(made, True)]
    assert (revoked.status_code, after.status_code) == (200, 401)
    assert (over.status_code, over.json()["error"]) == (400, "invalid_grant")
    assert (await client.get("/teams", headers={"X-API-Key": token})).status_code == 200


@pytest.mark.parametrize("key", ["", "e2b_" + "0" * 40, "x" * 5000, "<script>"])
async def test_a_key_that_is_not_known_is_asked_for_again(client: httpx.AsyncClient, key: str) -> None:
    answer = await sign_in(client, key)

    assert answer.status_code == 401
    assert "not known" in answer.text
    assert f'value="{NEXT}/"' in answer.text
    assert "script" not in answer.text


@pytest.mark.parametrize(
    "following",
    [
        "", "https://localhost:4711", "http://evil.example", "http://evil.example:80", "//evil.example",
        "http://localhost", "http://localhost:0", "http://localhost:65536", "http://localhost:4711/x",
        "http://localhost:4711@evil.example", "http://localhost:4711?x", "http://localhost:4711#x",
        "http://localhost.evil.example:80", "http://localhost:4711\\@evil.example", "http://user@localhost:4711",
        "javascript:alert(1)", "http://localhost:4711\n", "http://LOCALHOST:4711", "http://127.0.0.2:80",
        "http://localhost:\u0664711", " http://localhost:4711", 'http://localhost:4711/"><script>',
    ],
)  # fmt: skip
async def test_keys_go_to_this_machine_only(client: httpx.AsyncClient, keys: Keys, following: str) -> None:
    _, key = await keys.create(OWNER, "mine", KeyKind.API_KEY)
    asked = await client.get(PAGE, params={"next": following})
    sent = await client.post(PAGE, data={"key": key, "next": following}, headers=OWN)

    for answer in (asked, sent):
        assert answer.status_code == 400
        assert "does not work" in answer.text
        assert "location" not in answer.headers
        assert "<form" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {"Origin": "http://api:81"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
    ],
)  # fmt: skip
async def test_forms_of_other_pages_are_refused(
    client: httpx.AsyncClient, keys: Keys, headers: dict[str, str]
) -> None:
    _, token = await keys.create(OWNER, "mine", KeyKind.ACCESS_TOKEN)
    before = len(await keys.list(OWNER))
    answer = await sign_in(client, token, **headers)

    assert answer.status_code == 403
    assert "location" not in answer.headers
    assert len(await keys.list(OWNER)) == before


async def test_the_page_runs_nothing_is_in_no_frame_and_is_not_kept(client: httpx.AsyncClient) -> None:
    for address in (f"{PAGE}?next={NEXT}", f"{PAGE}?state=success&email=<script>", f"{PAGE}?next=x"):
        answer = await client.get(address)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert "<script" not in answer.text


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}/token", f"{PAGE}/revoke"])
async def test_what_is_no_form_is_refused(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, content=b"\xff", headers=OWN)
    many = await client.post(path, content="&".join(f"a{n}=b" for n in range(20)), headers=OWN)

    assert answer.status_code == many.status_code == 400
