"""The released clients give sandboxes tokens that prove to others who calls; the sandbox never sees them."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from e2b import AsyncSandbox, Sandbox, Secret
from e2b.exceptions import InvalidArgumentException, SandboxException
from support import javascript, matrix
from support.home import LiveHome, fresh_home
from support.web_world import RESOLVER, WebWorld, web_world

AUDIENCE = "https://sts.example"
IAM: Any = {"tokens": {"aws": Secret.iam_token(audience=AUDIENCE, token_type="JWT-SVID")}}
NETWORK: Any = {
    "dns_servers": [RESOLVER],
    "rules": {
        "allowed.example": [
            {"transform": lambda told: {"headers": {"Authorization": f"Bearer {told.iam.tokens['aws']}"}}}
        ]
    },
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebWorld]:
    with web_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def home(outside: WebWorld) -> Iterator[LiveHome]:
    with fresh_home(f'[network]\nserver_roots = "{outside.authority}"\n') as made:
        yield made


@pytest.fixture(scope="module")
def options(home: LiveHome) -> dict[str, Any]:
    return home.client_options


def read(said: str) -> str:
    """Return the token of a request, or what curl says instead."""
    return (
        dict(json.loads(said)["headers"])["Authorization"].removeprefix("Bearer ")
        if said.startswith("{")
        else said
    )


def ask(sandbox: Sandbox, url: str = "https://allowed.example/") -> str:
    return read(sandbox.commands.run(f"curl -sS --max-time 20 {url} 2>&1 || true").stdout)


def verified(home: LiveHome, token: str) -> dict[str, Any]:
    """Verify as a server does that knows the issuer only."""
    issuer = f"http://{home.listen}"
    found = httpx.get(f"{issuer}/.well-known/openid-configuration").raise_for_status().json()
    assert found["issuer"] == issuer
    key = jwt.PyJWKClient(found["jwks_uri"]).get_signing_key_from_jwt(token)
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=found["id_token_signing_alg_values_supported"],
        audience=AUDIENCE,
        issuer=issuer,
    )
    return claims


def test_requests_prove_which_sandbox_calls(home: LiveHome, options: dict[str, Any]) -> None:
    sandbox = Sandbox.create("base", timeout=300, iam=IAM, network=NETWORK, **options)
    try:
        token = ask(sandbox)
        claims = verified(home, token)
        clear = ask(sandbox, "http://allowed.example/")
        inside = sandbox.commands.run("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'").stdout
        limit = time.monotonic() + 15
        while verified(home, ask(sandbox))["jti"] == claims["jti"]:
            assert time.monotonic() < limit
        wrong: Any = {"a.example": [{"transform": {"headers": {"X": "${e2b.identity.tokens.missing}"}}}]}
        with pytest.raises(SandboxException, match="'missing', which the sandbox does not have"):
            sandbox.update_network({"rules": wrong})
        kept = verified(home, ask(sandbox))
        sandbox.pause()
        sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options)
        resumed = verified(home, ask(sandbox))
        [child] = sandbox.fork(timeout=120, count=1)
        assert isinstance(child, Sandbox)
        try:
            forked = verified(home, ask(child))
        finally:
            child.kill()
    finally:
        sandbox.kill()

    name = f"spiffe://atoll-{home.id}/team/default/sandbox/"
    assert claims["sub"] == kept["sub"] == resumed["sub"] == name + sandbox.sandbox_id
    assert forked["sub"] == name + child.sandbox_id
    assert 0 < claims["exp"] - time.time() <= 300
    assert "TLS only" in clear
    assert token not in inside
    for log in (home.path / "logs").iterdir():
        assert token.rpartition(".")[2] not in log.read_text()


async def test_the_same_with_asyncio(home: LiveHome, options: dict[str, Any]) -> None:
    sandbox = await AsyncSandbox.create("base", timeout=300, iam=IAM, network=NETWORK, **options)
    try:
        said = (
            await sandbox.commands.run("curl -sS --max-time 20 https://allowed.example/ 2>&1 || true")
        ).stdout
        claims = verified(home, read(said))
    finally:
        await sandbox.kill()

    assert claims["sub"].endswith(sandbox.sandbox_id)


def test_wrong_identities_are_refused(options: dict[str, Any]) -> None:
    def tokens(audience: str = AUDIENCE, kind: str = "JWT-SVID", number: int = 1) -> Any:
        token = Secret.iam_token(audience=audience, token_type=kind)
        return {"tokens": {f"t{n}": token for n in range(number)}}

    for iam, why in (
        (tokens(kind="X509-SVID"), "unsupported tokenType 'X509-SVID'"),
        (tokens(audience=""), "audience of iam token 't0' must have 1 to 1024"),
        (tokens(audience="a\nb"), "no control"),
        (tokens(number=6), "6 tokens, at most 5"),
    ):
        with pytest.raises(SandboxException, match=why):
            Sandbox.create("base", iam=iam, **options)
    # Written by hand, a name passes the client.
    rules: Any = {"a.example": [{"transform": {"headers": {"X": "${e2b.identity.tokens.AWS}"}}}]}
    with pytest.raises(SandboxException, match="'AWS', which the sandbox does not have"):
        Sandbox.create("base", iam=IAM, network={"rules": rules}, **options)
    # The client's own check.
    with pytest.raises(InvalidArgumentException):
        Sandbox.create("base", network=NETWORK, **options)


def test_the_javascript_client_does_the_same(home: LiveHome, recorder: matrix.Recorder) -> None:
    done = javascript.examine("identity.mjs", home.client_options, recorder)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "# pass 2" in done.stdout
