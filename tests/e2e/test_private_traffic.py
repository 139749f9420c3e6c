"""The ports of a sandbox whose traffic is not public, through the released client and the door."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import Sandbox
from support.home import LiveHome

import atoll

# Answers with the Host that it sees.
PROGRAM = """
import http.server
class Tell(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.headers["Host"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("0.0.0.0", 3000), Tell).serve_forever()
"""


@pytest.fixture(scope="module")
def private(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    network = {"allow_public_traffic": False, "mask_request_host": "localhost:${PORT}"}
    made = Sandbox.create("minimal", timeout=300, network=network, **client_options)
    made.files.write("/tmp/program.py", PROGRAM)
    made.commands.run("python3 /tmp/program.py", background=True)
    yield made
    made.kill()


def ask(sandbox: Sandbox, client_options: dict[str, Any], **headers: str) -> httpx.Response:
    own = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "3000"}
    return httpx.get(client_options["api_url"], headers=own | headers, timeout=30)


def test_only_who_shows_the_token_reaches_a_port(private: Sandbox, client_options: dict[str, Any]) -> None:
    token = private.traffic_access_token
    assert token is not None

    without = ask(private, client_options)
    wrong = ask(private, client_options, **{"e2b-traffic-access-token": "0" * 64})
    right = ask(private, client_options, **{"e2b-traffic-access-token": token})

    assert (without.status_code, wrong.status_code) == (403, 403)
    assert without.json()["message"].endswith("Token header 'e2b-traffic-access-token' is missing")
    assert (right.status_code, right.text) == (200, "localhost:3000")


def test_a_second_client_gets_the_same_token_and_the_daemon_wants_none(
    private: Sandbox, client_options: dict[str, Any]
) -> None:
    again = Sandbox.connect(private.sandbox_id, timeout=300, **client_options)

    assert again.traffic_access_token == private.traffic_access_token
    assert again.commands.run("echo fine").stdout == "fine\n"


def test_another_sandboxs_token_opens_nothing(private: Sandbox, client_options: dict[str, Any]) -> None:
    other = Sandbox.create("minimal", timeout=60, network={"allow_public_traffic": False}, **client_options)
    try:
        token = other.traffic_access_token
    finally:
        other.kill()
    assert token

    assert ask(private, client_options, **{"e2b-traffic-access-token": token}).status_code == 403


def test_our_own_client_makes_them_private_and_tells_the_token(home: LiveHome) -> None:
    own = {"api_url": home.exports["ATOLL_API_URL"], "api_key": home.exports["ATOLL_API_KEY"]}
    incoming = atoll.Incoming(public=False, mask_host="inside:${PORT}")
    with atoll.Sandbox.create("minimal", timeout=300, incoming=incoming, secured=False, **own) as made:
        made.files.write("/tmp/program.py", PROGRAM)
        made.commands.run("python3 /tmp/program.py", background=True)
        again = atoll.Sandbox.get(made.id, **own)
        token = again.traffic_token
        again.close()
        assert token is not None
        route = {"E2b-Sandbox-Id": made.id, "E2b-Sandbox-Port": "3000"}
        with httpx.Client(base_url=own["api_url"], headers=route, timeout=30) as client:
            without = client.get("/")
            limit = time.monotonic() + 30
            while (right := client.get("/", headers={"E2B-Traffic-Access-Token": token})).status_code == 502:
                assert time.monotonic() < limit, right.text
                time.sleep(0.1)
        daemon = {"E2b-Sandbox-Id": made.id, "E2b-Sandbox-Port": "49983"}
        unsecured = httpx.get(own["api_url"] + "/files?path=/tmp/program.py", headers=daemon, timeout=30)

    assert without.status_code == 403
    assert (right.status_code, right.text) == (200, "inside:3000")
    assert (unsecured.status_code, unsecured.text) == (200, PROGRAM)
