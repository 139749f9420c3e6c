"""The released clients keep secrets, and requests of sandboxes carry what they stand for."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import AsyncSecret, Sandbox, Secret
from e2b.exceptions import RateLimitException, SecretException, SecretNotFoundException
from support import javascript, matrix
from support.home import ATOLL, LiveHome, fresh_home
from support.web_world import PASSWORD, PROXY, RESOLVER, SERVERS, USER, WebWorld, web_world

import atoll

VALUE = "sk-live-t0ps3cret"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebWorld]:
    with web_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def home(outside: WebWorld) -> Iterator[LiveHome]:
    limits = "[sandboxes]\nmax_secrets = 4\n"
    with fresh_home(f'{limits}[network]\nserver_roots = "{outside.authority}"\n') as made:
        yield made


@pytest.fixture(scope="module")
def options(home: LiveHome) -> dict[str, Any]:
    # Secrets have no sandboxes' address.
    return {name: value for name, value in home.client_options.items() if name != "sandbox_url"}


def test_a_secret_is_created_read_changed_and_destroyed(options: dict[str, Any]) -> None:
    made = Secret.create("My-Key", VALUE, {"for": "tests"}, **options)
    info = Secret.get_info("my-key", **options)
    changed = Secret.update(made.secret_id, "another", **options)

    assert (made.name, made.version, made.metadata) == ("my-key", 1, {"for": "tests"})
    assert info == made
    assert (changed.version, changed.metadata) == (2, {"for": "tests"})
    assert changed.updated_at >= made.created_at
    assert Secret.exists("MY-KEY", **options)
    assert Secret.destroy(made.secret_id, **options)
    assert not Secret.destroy(made.secret_id, **options)
    assert not Secret.exists("my-key", **options)
    with pytest.raises(SecretNotFoundException):
        Secret.get_info("my-key", **options)
    with pytest.raises(SecretNotFoundException):
        Secret.update("my-key", "x", **options)


async def test_the_same_with_asyncio(options: dict[str, Any]) -> None:
    made = await AsyncSecret.create("a-key", VALUE, **options)
    changed = await AsyncSecret.update("A-Key", "another", {"why": "rotated"}, **options)

    assert await AsyncSecret.get_info("a-key", **options) == changed
    assert (changed.secret_id, changed.version, changed.metadata) == (made.secret_id, 2, {"why": "rotated"})
    assert await AsyncSecret.exists("a-key", **options)
    assert await AsyncSecret.destroy("a-key", **options)
    assert not await AsyncSecret.exists("a-key", **options)


async def test_lists_come_in_pages_and_have_an_end(options: dict[str, Any]) -> None:
    names = [f"key {n}+ü" for n in range(4)]
    for name in names:
        await AsyncSecret.create(name, VALUE, **options)
    try:
        with pytest.raises(RateLimitException, match="most secrets"):
            await AsyncSecret.create("one more", VALUE, **options)
        pages, listed = AsyncSecret.list(limit=2, **options), []
        while pages.has_next:
            listed.append([secret.name for secret in await pages.next_items()])
    finally:
        for name in names:
            assert await AsyncSecret.destroy(name, **options)

    assert listed == [names[:2], names[2:]]


def test_wrong_secrets_are_refused(options: dict[str, Any]) -> None:
    Secret.create("taken", VALUE, **options)
    try:
        for name, value, why in (
            ("Taken", "x", "exists already"),
            ("sec_x", "x", "must not begin"),
            ("a}b", "x", "no braces"),
            ("x", "", "1 to 65536"),
            ("x", "y" * 65537, "1 to 65536"),
        ):
            with pytest.raises(SecretException, match=why):
                Secret.create(name, value, **options)
        with pytest.raises(SecretException, match="next token"):
            Secret.list(next_token="%%%", **options).next_items()
    finally:
        Secret.destroy("taken", **options)


def ask(sandbox: Sandbox, url: str) -> Any:
    said = sandbox.commands.run(f"curl -sS --max-time 20 {url} 2>&1 || true").stdout
    return dict(json.loads(said)["headers"]) if said.startswith("{") else said


def test_rules_carry_what_a_secret_stands_for(home: LiveHome, options: dict[str, Any]) -> None:
    Secret.create("api-key", VALUE, **options)
    headers = {"Authorization": f"Bearer {Secret.fill('api-key')}", "X-Other": Secret.fill("missing")}
    rules = {"allowed.example": [{"transform": {"headers": {"Authorization": headers["Authorization"]}}}]}
    broken = {"other.example": [{"transform": {"headers": headers}}]}
    network = {"dns_servers": [RESOLVER], "rules": {**rules, **broken}}
    sandbox = Sandbox.create("base", timeout=300, network=network, **home.client_options)
    try:
        told = ask(sandbox, "https://allowed.example/")
        clear = ask(sandbox, "http://allowed.example/")
        missing = ask(sandbox, "https://other.example/")
        shown = sandbox.get_info().network
        Secret.update("api-key", "rotated", **options)
        limit = time.monotonic() + 15
        while (rotated := ask(sandbox, "https://allowed.example/"))["Authorization"] == told["Authorization"]:
            assert time.monotonic() < limit
        Secret.destroy("api-key", **options)
        while isinstance(gone := ask(sandbox, "https://allowed.example/"), dict):
            assert time.monotonic() < limit
    finally:
        sandbox.kill()
        Secret.destroy("api-key", **options)

    assert told["Authorization"] == f"Bearer {VALUE}"
    assert rotated["Authorization"] == "Bearer rotated"
    assert "TLS only" in clear
    assert "not known" in missing
    assert "not known" in gone
    assert shown is not None
    assert shown["rules"]["allowed.example"] == rules["allowed.example"]
    for file in (*(home.path / "logs").iterdir(), *home.path.glob("atoll.db*")):
        assert VALUE.encode() not in file.read_bytes()


def test_our_own_client_and_command_line_do_the_same(home: LiveHome, tmp_path: Path) -> None:
    options = {name: home.exports[f"ATOLL_{name.upper()}"] for name in ("api_url", "api_key")}
    env = {**os.environ, **home.exports}
    value, name = "sk-0wn-t0ps3cret", "our key"

    def run(*words: str, data: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ATOLL, *words], input=data, capture_output=True, text=True, timeout=120, env=env
        )

    made = run("secret", "create", name, data=f"{value}\n")
    rule = atoll.Network(
        headers={"allowed.example": {"Authorization": f"Bearer {atoll.Secret.fill(name)}"}},
        dns_servers=(RESOLVER,),
    )
    curl = "curl -sS --max-time 20 https://allowed.example/"
    try:
        with atoll.Sandbox.create("base", network=rule, **options) as sandbox:
            told = sandbox.commands.run(curl, check=True).stdout
            inside = sandbox.commands.run("env; cat /proc/*/environ", user="root").stdout
        header = f"allowed.example:Authorization=Bearer {made.stdout.strip()}"
        ran = run("run", "--dns", RESOLVER, "--header", header, "--", *curl.split())
        listed = run("secret", "list", "--json")
    finally:
        deleted = run("secret", "delete", name)

    assert made.stdout == "${e2b.secrets.our key}\n", made.stderr
    for answer in (told, ran.stdout):
        assert dict(json.loads(answer)["headers"])["Authorization"] == f"Bearer {value}"
    assert [one["name"] for one in json.loads(listed.stdout)] == [name]
    assert deleted.returncode == 0
    assert value not in inside
    for said in (made, listed, deleted):
        assert value not in said.stdout + said.stderr
    for file in (*(home.path / "logs").iterdir(), *home.path.glob("atoll.db*")):
        assert value.encode() not in file.read_bytes()


@pytest.mark.parametrize("name", ["a.b", "..", ".", "what?", "100 %", "a#b", "ä€😀", "a&b=c;d", "%2f", "a+b"])
def test_names_of_any_kind_are_found_again_through_the_edge(home: LiveHome, name: str) -> None:
    options = {word: home.exports[f"ATOLL_{word.upper()}"] for word in ("api_url", "api_key")}
    made = atoll.Secret.create(name, VALUE, **options)
    try:
        assert atoll.Secret.get(name, **options) == made
        assert atoll.Secret.update(name, "x", **options).id == made.id
    finally:
        atoll.Secret.delete(name, **options)
    for verb in (atoll.Secret.get, atoll.Secret.delete, atoll.Volume.get, atoll.Volume.delete):
        with pytest.raises(atoll.NotFoundError):
            verb(name, **options)


def test_the_javascript_client_does_the_same(home: LiveHome, recorder: matrix.Recorder) -> None:
    world = {"SERVER": SERVERS, "PROXY": PROXY, "PROXY_USER": USER, "PROXY_PASSWORD": PASSWORD}
    done = javascript.examine("network.mjs", home.client_options, recorder, world)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "# pass 3" in done.stdout
