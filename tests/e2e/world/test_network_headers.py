"""Requests get headers on their way that the sandbox never sees, and all of its TCP goes through a proxy."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from e2b import ALL_TRAFFIC, AsyncSandbox, Sandbox, SandboxException
from support.home import ATOLL, LiveHome, fresh_home
from support.web_world import PASSWORD, PROXY, RESOLVER, USER, WebWorld, web_world

TOKEN = "Bearer t0p-s3cret"
RULES = {
    "allowed.example": [{"transform": {"headers": {"Authorization": TOKEN, "x-api-key": "k3y"}}}],
    "*.wild.example": [{"transform": {"headers": {"Authorization": "wild"}}}],
    "forged.example": [{"transform": {"headers": {"Authorization": "for nobody"}}}],
    "rebound.example": [{"transform": {"headers": {"Authorization": "for nobody"}}}],
}
# Where a sandbox says that a name leads; 192.31.196.200 is nowhere.
ELSEWHERE = "--resolve *:443:192.31.196.200"
NETWORK = {"dns_servers": [RESOLVER], "rules": RULES}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebWorld]:
    with web_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def home(outside: WebWorld) -> Iterator[LiveHome]:
    settings = f'[network]\nserver_roots = "{outside.authority}"\nproxy_networks = "10.250.77.80/32"\n'
    with fresh_home(settings) as made:
        yield made


@pytest.fixture(scope="module")
def options(home: LiveHome) -> dict[str, Any]:
    return home.client_options


@pytest.fixture(scope="module")
def sandbox(options: dict[str, Any]) -> Iterator[Sandbox]:
    made = Sandbox.create("base", timeout=900, network=NETWORK, **options)
    yield made
    made.kill()


def run(sandbox: Sandbox, command: str) -> str:
    done = sandbox.commands.run(f"{command} 2>&1 || echo exit $?", timeout=60)
    return done.stdout


def curl(sandbox: Sandbox, words: str) -> Any:
    """Return what the server was sent, or what curl says instead."""
    said = run(sandbox, f"curl -sS --max-time 20 {words}")
    return json.loads(said) if said.startswith("{") else said


def sent(told: Any, name: str) -> list[str]:
    assert isinstance(told, dict), told
    return [value for key, value in told["headers"] if key.lower() == name.lower()]


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_headers_take_the_place_of_the_sandboxes_own(sandbox: Sandbox, version: str) -> None:
    told = curl(sandbox, f"{version} -H 'Authorization: mine' -d body https://allowed.example/x?a=b")

    assert (told["host"], told["path"], told["sent"]) == ("allowed.example", "/x?a=b", 4)
    assert sent(told, "authorization") == [TOKEN]
    assert sent(told, "x-api-key") == ["k3y"]


def test_the_languages_trust_what_they_are_shown(sandbox: Sandbox) -> None:
    python = "import urllib.request as u; print(u.urlopen('https://allowed.example/').read().decode())"
    node = "fetch('https://allowed.example/').then(a => a.text()).then(console.log)"

    for said in (run(sandbox, f'python3 -c "{python}"'), run(sandbox, f'node -e "{node}"')):
        assert sent(json.loads(said), "authorization") == [TOKEN], said


def test_names_below_a_star_get_theirs(sandbox: Sandbox) -> None:
    assert sent(curl(sandbox, "https://api.wild.example/"), "authorization") == ["wild"]


def test_in_the_clear_too_where_the_name_leads_and_not_where_the_sandbox_says(sandbox: Sandbox) -> None:
    told = curl(sandbox, "--resolve allowed.example:80:192.31.196.200 http://allowed.example/")

    assert sent(told, "authorization") == [TOKEN]


def test_no_other_server_is_sent_them(sandbox: Sandbox) -> None:
    plain = curl(sandbox, "-H 'Host: other.example' http://other.example/")
    followed = curl(sandbox, "-k -L https://allowed.example/redirect")
    spoken = curl(sandbox, "-k https://other.example/")

    for told in (plain, followed, spoken):
        assert told["host"] == "other.example"
        assert sent(told, "authorization") == sent(told, "x-api-key") == []


def test_a_server_that_does_not_prove_its_name_gets_nothing(sandbox: Sandbox) -> None:
    assert "certificate" in curl(sandbox, "https://forged.example/")
    assert "no sandbox reaches" in curl(sandbox, f"{ELSEWHERE} https://rebound.example/")


@pytest.mark.parametrize(
    "words",
    [
        "-H 'Host: other.example' https://allowed.example/",
        "--http2 -H 'Host: other.example' https://allowed.example/",
        "-X TRACE https://allowed.example/",
        "-X TRACE http://allowed.example/",
        "-k --proxy http://allowed.example:80 -p https://other.example/",
        "--http1.1 -X CONNECT --request-target allowed.example:443 https://allowed.example/",
    ],
)
def test_tricks_show_nothing(sandbox: Sandbox, words: str) -> None:
    said = curl(sandbox, f"-i {words}")

    assert isinstance(said, str)
    assert "t0p-s3cret" not in said
    assert " 200 " not in said.partition("\n")[0]


def test_nothing_inside_knows_the_values(sandbox: Sandbox) -> None:
    files = "sudo grep -rl t0p-s3cret /etc /run /usr/local /home /tmp"
    found = run(sandbox, f"env; {files}; sudo cat /proc/*/environ")

    assert "t0p-s3cret" not in found


def test_the_owner_sees_the_rules_and_the_log_does_not(home: LiveHome, sandbox: Sandbox) -> None:
    network = sandbox.get_info().network

    assert network is not None
    assert network["rules"]["allowed.example"] == [
        {"transform": {"headers": {"Authorization": TOKEN, "x-api-key": "k3y"}}}
    ]
    curl(sandbox, "https://allowed.example/")
    for log in (home.path / "logs").iterdir():
        assert "t0p-s3cret" not in log.read_text()
    assert not any("t0p-s3cret" in record.read_text() for record in (home.path / "slots").glob("*.json"))


def test_rules_of_a_running_sandbox_are_replaced(options: dict[str, Any]) -> None:
    sandbox = Sandbox.create("base", timeout=300, **options)
    try:
        sandbox.update_network(NETWORK)
        first = curl(sandbox, "https://allowed.example/")
        rules = {"allowed.example": [{"transform": {"headers": {"Authorization": "another"}}}]}
        sandbox.update_network({**NETWORK, "rules": rules})
        second = curl(sandbox, "https://allowed.example/")
        sandbox.update_network({"dns_servers": [RESOLVER]})
        third = curl(sandbox, "-k https://allowed.example/")
    finally:
        sandbox.kill()

    assert [sent(told, "authorization") for told in (first, second, third)] == [[TOKEN], ["another"], []]


def test_a_rule_opens_nothing(options: dict[str, Any]) -> None:
    network = {**NETWORK, "deny_out": [ALL_TRAFFIC], "allow_out": ["allowed.example"]}
    sandbox = Sandbox.create("base", timeout=300, network=network, **options)
    try:
        allowed = curl(sandbox, "https://allowed.example/")
        denied = curl(sandbox, "https://api.wild.example/")
    finally:
        sandbox.kill()

    assert sent(allowed, "authorization") == [TOKEN]
    assert "denied" in denied


async def test_wrong_rules_are_refused(options: dict[str, Any]) -> None:
    def of(headers: dict[str, str], domain: str = "a.example") -> dict[str, Any]:
        return {"rules": {domain: [{"transform": {"headers": headers}}]}}

    wrong: list[tuple[dict[str, Any], str]] = [
        (of({"Host": "x"}), "cannot be set"),
        (of({"X Y": "x"}), "invalid header name"),
        (of({"X" * 65: "x"}), "longer than 64"),
        (of({"X": "x" * 2049}), "at most 2048"),
        (of({"X": "a\r\nB: c"}), "no header can have"),
        (of({str(n): "x" for n in range(21)}), "at most 20"),
        (of({"X": "x"}, "10.0.0.1"), "no domain name"),
        ({"rules": {f"d{n}.example": [] for n in range(11)}}, "at most 10"),
        ({"rules": {"a.example": [{"transform": {}}] * 2}}, "at most 1"),
    ]
    for network, why in wrong:
        with pytest.raises(SandboxException, match=why):
            await AsyncSandbox.create("base", network=network, **options)


def tunnelled(**more: Any) -> dict[str, Any]:
    proxy = {"address": "proxy.example:1080", "username": USER, "password": PASSWORD, **more}
    return {**NETWORK, "egress_proxy": proxy}


def test_all_tcp_goes_through_the_proxy(home: LiveHome, outside: WebWorld, options: dict[str, Any]) -> None:
    sandbox = Sandbox.create("base", timeout=300, network=tunnelled(address=f"{PROXY}:1080"), **options)
    try:
        ruled = curl(sandbox, "https://allowed.example/")
        plain = curl(sandbox, "http://other.example/")
        other = curl(sandbox, "http://other.example:8080/")
        shown = sandbox.get_info().network
        ca_cert = outside.authority.read_text()
        tls = {"server_name": "proxy.example", "ca_cert": ca_cert}
        sandbox.update_network(tunnelled(address=f"{PROXY}:1081", tls=tls))
        secure = curl(sandbox, "http://other.example:8080/")
        sandbox.update_network(tunnelled(address=f"{PROXY}:1081", tls=True))
        unproven = curl(sandbox, "http://other.example:8080/")
        sandbox.update_network(tunnelled(address=f"{PROXY}:1080", password="wrong"))
        unwelcome = curl(sandbox, "http://other.example:8080/")
        sandbox.update_network(tunnelled(address=f"{PROXY}:1"))
        unreachable = curl(sandbox, "http://other.example:8080/")
        inner = tunnelled(address="10.250.77.80:1080")
        sandbox.update_network(inner)
        through_inner = curl(sandbox, "http://other.example:8080/")
        forbidden = run(sandbox, "curl -sS --max-time 5 http://10.250.77.1:8077/")
        sandbox.update_network({"dns_servers": [RESOLVER]})
        direct = curl(sandbox, "http://other.example:8080/")
    finally:
        sandbox.kill()

    assert sent(ruled, "authorization") == [TOKEN]
    assert {told["from"] for told in (ruled, plain, other, secure, through_inner)} == {PROXY}
    assert direct["from"] != PROXY
    for said in (unproven, unwelcome, unreachable):
        assert isinstance(said, str), said
        assert "exit" in said
    assert "exit" in forbidden
    assert shown is not None
    assert shown["egress_proxy"] == {"address": f"{PROXY}:1080", "username": USER}
    for log in (home.path / "logs").iterdir():
        assert PASSWORD not in log.read_text()


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ({"address": "127.0.0.1:1080"}, "no sandbox reaches"),
        ({"address": "169.254.169.254:80"}, "no sandbox reaches"),
        ({"address": "10.250.77.1:1080"}, "no sandbox reaches"),
        ({"address": "nowhere.invalid:1080"}, "egressProxy"),
        ({"address": "proxy.example"}, "must be host:port"),
        ({"address": f"{PROXY}:0"}, "must be host:port"),
        ({"address": f"{PROXY}:1080", "password": "x"}, "needs a username"),
        ({"address": f"{PROXY}:1080", "username": "x" * 256}, "at most 255"),
        ({"address": f"{PROXY}:1080", "tls": {"ca_cert": "none"}}, "no certificate"),
    ],
)
def test_wrong_proxies_are_refused(options: dict[str, Any], proxy: dict[str, Any], why: str) -> None:
    with pytest.raises(SandboxException, match=why):
        Sandbox.create("base", network={"egress_proxy": proxy}, **options)


def test_rules_live_through_a_restart_of_the_server(home: LiveHome, sandbox: Sandbox) -> None:
    # From here on the edge knows the rules.
    curl(sandbox, "https://allowed.example/")
    edge, server = home.edge_pid(), psutil.Process(home.server_pid())
    server.kill()
    server.wait(timeout=10)
    carried = curl(sandbox, "https://allowed.example/")
    home.start()
    after = curl(sandbox, "https://allowed.example/")

    assert sent(carried, "authorization") == sent(after, "authorization") == [TOKEN]
    assert home.edge_pid() == edge


def test_a_sandbox_may_not_trust_us(options: dict[str, Any]) -> None:
    """A guest that breaks its list of authorities gets its rules all the same."""
    sandbox = Sandbox.create("base", timeout=300, **options)
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    try:
        sandbox.commands.run(f"rm -f {bundle}; mkfifo {bundle}", user="root")
        sandbox.update_network(NETWORK)
        told = curl(sandbox, "-k https://allowed.example/")
    finally:
        sandbox.kill()

    assert sent(told, "authorization") == [TOKEN]


def test_the_command_line_says_the_same(home: LiveHome) -> None:
    words = ["--header", "allowed.example:Authorization=from-here", "--allow", "allowed.example", "--dns"]
    env = {**os.environ, **home.env, **home.exports}
    command = "curl -sS https://allowed.example/ && ! curl -sS -m 5 https://other.example/"
    done = subprocess.run(
        [ATOLL, "run", *words, RESOLVER, "--proxy", f"{USER}@{PROXY}:1080", "--", "bash", "-c", command],
        env={**env, "ATOLL_PROXY_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (sent(told, "authorization"), told["from"]) == (["from-here"], PROXY)
