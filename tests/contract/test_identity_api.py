"""What everybody can ask to verify tokens of sandboxes, and what the edge asks to have them."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jwt
import pytest
from fakes.apps import public_app
from fakes.world import ALICE, World, wish

from atoll.server.api.app import PublicAddress, build_private
from atoll.server.api.limits import ApiLimits
from atoll.server.control.service import Control
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.egress_rules import HeaderRule
from atoll.server.domain.identity import WorkloadToken
from atoll.server.domain.sandbox import Sandbox

TOKEN = "${e2b.identity.tokens.aws}"
RULE = HeaderRule(domain="a.example", headers=(("Authorization", f"Bearer {TOKEN} ${{e2b.secrets.One}}"),))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def control(world: World) -> AsyncIterator[Control]:
    async with world.server() as opened:
        yield opened


@pytest.fixture
async def sandbox(control: Control) -> Sandbox:
    return await control.create(
        ALICE, wish(egress=EgressPolicy(rules=(RULE,)), tokens=(WorkloadToken(name="aws", audience="sts"),))
    )


@pytest.fixture
async def public(world: World, control: Control) -> AsyncIterator[httpx.AsyncClient]:
    app = public_app(world.verbs(control), PublicAddress(domain="sbx.test"), ApiLimits())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api") as client:
        yield client


@pytest.fixture
async def private(world: World, control: Control) -> AsyncIterator[httpx.AsyncClient]:
    verbs = world.verbs(control)
    app = build_private(control, verbs.secrets, verbs.identity, ApiLimits())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://edge") as client:
        yield client


async def test_the_edge_gets_what_rules_name_and_others_verify_it_without_a_key(
    world: World, control: Control, sandbox: Sandbox, public: httpx.AsyncClient, private: httpx.AsyncClient
) -> None:
    await world.verbs(control).secrets.create(ALICE, "one", "hush", {})
    policy = (await private.get(f"/v1/egress/{sandbox.address}")).json()
    [rule] = policy["rules"]
    names = [*rule["placeholders"], "identity.tokens.none", "secrets.none", "other.aws", ""]
    values = (await private.post(f"/v1/egress/{sandbox.address}/values", json={"names": names})).json()[
        "values"
    ]
    discovery = await public.get("/.well-known/openid-configuration")
    found = discovery.json()
    keys = await public.get(found["jwks_uri"].removeprefix(found["issuer"]))

    assert rule["placeholders"] == ["secrets.One", "identity.tokens.aws"]
    assert set(values) == set(rule["placeholders"])
    assert values["secrets.One"] == "hush"
    token = values["identity.tokens.aws"]
    key = jwt.PyJWKSet.from_dict(keys.json())[jwt.get_unverified_header(token)["kid"]]
    # The world's clock stands in the past.
    claims = jwt.decode(token, key, audience="sts", issuer=found["issuer"], options={"verify_exp": False})
    assert claims["sub"].endswith(f"/sandbox/{sandbox.id}")
    assert found["id_token_signing_alg_values_supported"] == ["RS256"]
    for answer in (discovery, keys):
        assert answer.headers["cache-control"] == "public, max-age=300"
    [shown] = keys.json()["keys"]
    assert set(shown) == {"kty", "use", "alg", "kid", "n", "e"}


@pytest.mark.parametrize("path", ["/.well-known/", "/.well-known/openid-configuration/", "/.well-known/x"])
async def test_nothing_else_is_open(public: httpx.AsyncClient, path: str) -> None:
    assert (await public.get(path)).status_code == 401


async def test_documents_are_for_reading(public: httpx.AsyncClient) -> None:
    assert (await public.post("/.well-known/jwks.json", json={})).status_code == 405
