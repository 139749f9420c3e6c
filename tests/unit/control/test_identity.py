"""What tokens of sandboxes say, who gets them, and how the keys behind them change."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from fakes.secrets import ISSUER, identity_in
from fakes.world import ALICE, World, wish

from atoll.server.control.owned.identity import Identity
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.egress_rules import HeaderRule
from atoll.server.domain.errors import InternalError, InvalidArgumentError, NotFoundError
from atoll.server.domain.identity import WorkloadToken
from atoll.server.domain.sandbox import Sandbox
from atoll.server.runtimes.fake.clock import START
from atoll.server.stores.database import Database
from atoll.server.stores.signing_keys import SqliteSigningKeys

AUDIENCE = "https://sts.example"
TOKENS = (WorkloadToken(name="aws", audience=AUDIENCE), WorkloadToken(name="Other", audience="other"))
DAY = timedelta(days=1)


def ruled(*names: str) -> EgressPolicy:
    value = " ".join(f"${{e2b.identity.tokens.{name}}}" for name in names)
    return EgressPolicy(rules=(HeaderRule(domain="a.example", headers=(("X", value),)),))


@pytest.fixture
def identity(world: World) -> Identity:
    return identity_in(world.database, world.clock)


@pytest.fixture
async def sandbox(control: Control) -> Sandbox:
    return await control.create(ALICE, wish(tokens=TOKENS, egress=ruled("aws")))


async def verified(identity: Identity, token: str, world: World) -> dict[str, Any]:
    """Verify as others do, by what is published, but by the world's clock."""
    head = jwt.get_unverified_header(token)
    assert (head["alg"], head["typ"]) == ("RS256", "JWT")
    [key] = [key for key in await identity.published() if key.id == head["kid"]]
    public = jwt.PyJWK({**key.public, "alg": "RS256"})
    options: Any = {"verify_exp": False, "verify_iat": False, "verify_aud": False}
    claims: dict[str, Any] = jwt.decode(token, public, algorithms=["RS256"], options=options)
    now = world.clock.now().timestamp()
    assert claims["iat"] <= now < claims["exp"]
    return claims


async def minted(identity: Identity, sandbox: Sandbox, name: str = "aws") -> str:
    return (await identity.tokens_for(sandbox, [name]))[name]


async def test_a_token_names_the_sandbox_and_whom_it_is_for(
    world: World, identity: Identity, sandbox: Sandbox
) -> None:
    claims = await verified(identity, await minted(identity, sandbox), world)

    assert claims["iss"] == ISSUER.address
    assert claims["sub"] == f"spiffe://sbx.test/team/{ALICE.team_id}/sandbox/{sandbox.id}"
    assert claims["aud"] == AUDIENCE
    assert claims["exp"] - claims["iat"] == 300


async def test_tokens_are_made_anew(world: World, identity: Identity, sandbox: Sandbox) -> None:
    first = await verified(identity, await minted(identity, sandbox), world)
    world.clock.advance(timedelta(minutes=10))
    second = await verified(identity, await minted(identity, sandbox), world)

    assert second["jti"] != first["jti"]
    assert second["iat"] - first["iat"] == 600


async def test_a_sandbox_gets_what_it_has_and_its_rules_name(identity: Identity, sandbox: Sandbox) -> None:
    found = await identity.tokens_for(sandbox, ["aws", "Other", "AWS", "missing", ""])

    assert set(found) == {"aws"}


async def test_a_fork_and_what_was_paused_prove_who_they_are_now(
    world: World, control: Control, identity: Identity, sandbox: Sandbox
) -> None:
    [child] = await control.snapshots.fork(ALICE, sandbox.id, 1, timedelta(minutes=5))
    assert isinstance(child, Sandbox)
    await control.pausing.pause(ALICE, sandbox.id, CheckpointKind.MEMORY)
    resumed, _ = await control.pausing.connect(ALICE, sandbox.id, timedelta(minutes=5))

    named = {
        one.id: (await verified(identity, await minted(identity, one), world))["sub"].rpartition("/")[2]
        for one in (child, resumed)
    }
    assert named == {child.id: child.id, sandbox.id: sandbox.id}
    assert child.id != sandbox.id


async def test_a_rule_that_names_a_token_that_is_not_there_is_refused(
    world: World, control: Control, sandbox: Sandbox
) -> None:
    with pytest.raises(InvalidArgumentError, match="'missing', which the sandbox does not have"):
        await control.create(ALICE, wish(tokens=TOKENS, egress=ruled("missing")))
    with pytest.raises(InvalidArgumentError, match="'missing', which the sandbox does not have"):
        await control.set_egress(ALICE, sandbox.id, ruled("missing"))
    changed = await control.set_egress(ALICE, sandbox.id, ruled("Other"))

    assert [row.id for row in (await world.rows()).values()] == [sandbox.id]
    assert changed.egress == ruled("Other")


async def test_keys_change_and_tokens_of_both_are_believed(
    world: World, identity: Identity, sandbox: Sandbox
) -> None:
    first = await minted(identity, sandbox)
    world.clock.advance(31 * DAY)
    before = await minted(identity, sandbox)
    assert len(await identity.published()) == 2
    world.clock.advance(2 * DAY)
    after = await minted(identity, sandbox)
    await verified(identity, after, world)
    published = {key.id for key in await identity.published()}
    kids = [jwt.get_unverified_header(token)["kid"] for token in (first, before, after)]
    world.clock.advance(3 * DAY)

    assert kids[0] == kids[1] != kids[2]
    assert set(kids) == published
    assert [key.id for key in await identity.published()] == [kids[2]]


async def test_the_first_key_is_made_once(world: World, identity: Identity, sandbox: Sandbox) -> None:
    tokens = await asyncio.gather(*(minted(identity, sandbox) for _ in range(8)))

    assert len({jwt.get_unverified_header(token)["kid"] for token in tokens}) == 1
    assert len(await identity.published()) == 1


async def test_keys_outlive_the_server_and_cannot_be_read_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "atoll.db"
    async with Database(file) as database:
        made = await SqliteSigningKeys(database, secret=b"s" * 32).make_key(START)
    async with Database(file) as database:
        keys = SqliteSigningKeys(database, secret=b"s" * 32)
        assert list(await keys.list_keys()) == [made]
        token = await keys.sign(made.id, {"sub": "me"})
        with pytest.raises(InternalError, match="cannot be read"):
            await SqliteSigningKeys(database, secret=b"x" * 32).sign(made.id, {})
        await keys.drop_keys([made.id])
        with pytest.raises(NotFoundError):
            await keys.sign(made.id, {})

    public = jwt.PyJWK({**made.public, "alg": "RS256"})
    assert set(made.public) == {"kty", "n", "e"}
    assert jwt.decode(token, public, algorithms=["RS256"]) == {"sub": "me"}
    for part in tmp_path.iterdir():
        assert b"PRIVATE KEY" not in part.read_bytes()


async def test_no_token_is_in_a_log(
    identity: Identity, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    token = await minted(identity, sandbox)

    assert token.split(".")[2] not in capsys.readouterr().out
