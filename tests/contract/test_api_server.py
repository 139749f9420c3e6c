"""The API as uvicorn serves it: what only a real connection shows."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from fakes.live_api import KEY, LiveApi, live_api

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def client(api: LiveApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, headers={"X-API-Key": KEY}, timeout=30) as opened:
        yield opened


def pieces() -> Iterator[bytes]:
    yield b'{"templateID": "'
    for _ in range(160):
        yield b"x" * 64 * 1024
    yield b'"}'


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("path", ["/v2/sandboxes", "/v1/sandboxes"])
def test_ten_megabytes_of_json_are_refused_and_the_next_call_works(
    client: httpx.Client, path: str, chunked: bool
) -> None:
    content = pieces() if chunked else b"".join(pieces())

    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})

    assert answer.status_code == 413
    assert "1048576" in answer.json()["message"]
    assert client.get("/v2/sandboxes").status_code == 200


def test_a_chunked_create_works_as_the_javascript_client_sends_it(client: httpx.Client) -> None:
    body = iter([b'{"templa', b'teID":"base"}'])

    answer = client.post("/v2/sandboxes", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 201
    assert client.delete(f"/sandboxes/{answer.json()['sandboxID']}").status_code == 204


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(
    api: LiveApi, client: httpx.Client
) -> None:
    head = (
        f"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", api.port)) as gone:
            gone.sendall(head.encode() + b'{"templateID": "ba')

    assert client.get("/v2/sandboxes").json() == []
    assert client.get("/v1/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_an_error_and_no_more(api: LiveApi, client: httpx.Client, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.recv(4096)

    assert not answer.startswith(b"HTTP/1.1 2")
    assert client.get("/v2/sandboxes").status_code == 200


def test_upgrades_are_not_taken(api: LiveApi) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
        "Sec-WebSocket-Version": "13",
        "X-API-Key": KEY,
    }

    answer = httpx.get(f"{api.url}/v1/sandboxes", headers=headers)

    assert answer.status_code == 200
    assert json.loads(answer.content)["sandboxes"] == []
