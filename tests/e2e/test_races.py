"""Clients that ask a real home for what does not go together, at once: each is answered, one of them wins."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from e2b import Sandbox, SandboxNotFoundException
from e2b.sandbox.sandbox_api import SandboxQuery
from support.door import Door
from support.home import LiveHome


@pytest.fixture(scope="module")
def api(client_options: dict[str, Any]) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=client_options["api_url"],
        headers={"X-API-Key": client_options["api_key"]},
        timeout=60,
        limits=httpx.Limits(max_connections=None),
    ) as client:
        yield client


def at_once(call: Callable[[], Any], times: int) -> list[Any]:
    with ThreadPoolExecutor(times) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(times)]]


def test_ten_clients_kill_one_sandbox_and_all_are_told_that_it_is_gone(
    home: LiveHome, client_options: dict[str, Any], api: httpx.Client
) -> None:
    for _ in range(3):
        sandbox = Sandbox.create("minimal", timeout=120, **client_options)
        statuses = at_once(lambda one=sandbox: api.delete(f"/sandboxes/{one.sandbox_id}").status_code, 10)

        assert set(statuses) <= {204, 404}
        assert 204 in statuses
        assert not (home.path / "sandboxes" / sandbox.sandbox_id).exists()


def test_a_sandbox_killed_while_it_is_created_is_gone_and_its_creator_is_told(
    home: LiveHome, client_options: dict[str, Any], api: httpx.Client
) -> None:
    before = home.settled_running()
    answers: list[httpx.Response] = []
    # With a disk of another size it boots, which takes long enough: no machine of the pool is one of these.
    body = {
        "template": "minimal",
        "timeout_seconds": 120,
        "metadata": {"race": "kill"},
        "limits": {"disk_bytes": 1 << 30},
    }
    creators = [
        threading.Thread(target=lambda: answers.append(api.post("/v1/sandboxes", json=body)))
        for _ in range(6)
    ]
    for creator in creators:
        creator.start()
    killed = set()
    while any(creator.is_alive() for creator in creators):
        query = {"status": ["creating"], "metadata": "race=kill"}
        for row in api.get("/v1/sandboxes", params=query).raise_for_status().json()["sandboxes"]:
            if row["id"] not in killed:
                assert api.delete(f"/v1/sandboxes/{row['id']}").status_code in (200, 404)
                killed.add(row["id"])

    assert killed, "no create was slow enough to be caught"
    assert {answer.status_code for answer in answers} <= {201, 409}
    # A kill that came a moment later found it running: then both are told that they had their will.
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201} - killed
    assert home.settled_running() == before | made
    for sandbox_id in made:
        Sandbox.kill(sandbox_id, **client_options)


def test_a_kill_ends_the_streams_of_all_its_commands(client_options: dict[str, Any]) -> None:
    sandbox = Sandbox.create("minimal", timeout=120, **client_options)
    handles = [sandbox.commands.run("while :; do echo x; done", background=True) for _ in range(5)]
    ended: list[BaseException | None] = []

    def follow(handle: Any) -> None:
        try:
            handle.wait(on_stdout=lambda _: None)
        except Exception as error:
            ended.append(error)

    readers = [threading.Thread(target=follow, args=(handle,)) for handle in handles]
    for reader in readers:
        reader.start()
    time.sleep(0.5)

    started = time.monotonic()
    assert sandbox.kill()
    for reader in readers:
        reader.join(timeout=30)

    assert not any(reader.is_alive() for reader in readers)
    assert len(ended) == 5
    assert time.monotonic() - started < 20


def test_a_timeout_set_at_the_deadline_either_holds_or_comes_too_late(client_options: dict[str, Any]) -> None:
    for lead in (0.9, 0.99, 1.0, 1.01):
        sandbox = Sandbox.create("minimal", timeout=120, **client_options)
        sandbox.set_timeout(1)
        time.sleep(lead)
        try:
            sandbox.set_timeout(60)
        except SandboxNotFoundException:
            # It is being killed; its end follows.
            limit = time.monotonic() + 10
            while sandbox.is_running() and time.monotonic() < limit:
                time.sleep(0.02)
            assert not sandbox.is_running()
        else:
            time.sleep(0.5)
            assert sandbox.commands.run("echo here").stdout == "here\n"
            assert sandbox.kill()


def test_two_hundred_readers_and_ten_creates_do_not_stop_each_other(
    client_options: dict[str, Any], api: httpx.Client
) -> None:
    known = Sandbox.create("minimal", timeout=300, **client_options)

    def create_and_kill() -> float:
        started = time.monotonic()
        Sandbox.create("minimal", timeout=120, metadata={"race": "gets"}, **client_options).kill()
        return time.monotonic() - started

    with ThreadPoolExecutor(210) as pool:
        gets = [
            pool.submit(lambda: api.get(f"/sandboxes/{known.sandbox_id}").status_code) for _ in range(200)
        ]
        creates = [pool.submit(create_and_kill) for _ in range(10)]
        gets += [pool.submit(lambda: api.get("/v2/sandboxes").status_code) for _ in range(200)]
        assert {get.result(timeout=60) for get in gets} == {200}
        assert max(create.result(timeout=120) for create in creates) < 60

    left = Sandbox.list(query=SandboxQuery(metadata={"race": "gets"}), **client_options).next_items()
    assert left == []
    assert known.kill()


RUBBISH = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"1e999",
    b'{"timeout":1e400}',
    b'{"timeout":NaN}',
    b'{"timeout":-0.0}',
    b'{"timeout":123456789012345678901234567890}',
    b'{"timeout":"1"}',
    b'{"timeout":true}',
    b'{"timeout":9007199254740993}',
    b'{"timeout":1,"timeout":-1}',
    b'{"timeout":"\\ud800"}',
    b"\xff\xfe{\x00}\x00",
    b'{"templateID":"minimal\\u0000"}',
    b'{"templateID":"\\ud800\\udc00","metadata":{"a":"\\udfff"}}',
    b'{"templateID":"minimal","metadata":{"a":1}}',
    b'{"templateID":"minimal","envVars":{"A=B":"c"}}',
    b'{"templateID":"minimal","envVars":{"A":"b\\u0000c"}}',
    b'{"templateID":"minimal","metadata":{"\\u0000":"x"},"timeout":-1}',
    b'{"templateID":["minimal"]}',
    b'{"duration":-5}',
    b'{"duration":1.5}',
    b"[" * 5000,
    b'{"a":' * 5000,
]
CALLS = [
    ("POST", "/v2/sandboxes"),
    ("POST", "/sandboxes"),
    ("POST", "/v1/sandboxes"),
    ("POST", "/sandboxes/{id}/timeout"),
    ("POST", "/v1/sandboxes/{id}/timeout"),
    ("POST", "/sandboxes/{id}/refreshes"),
    ("POST", "/sandboxes/{id}/connect"),
    ("POST", "/v2/sandboxes/{id}/connect"),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(call))
def test_rubbish_is_answered_as_such_and_changes_nothing(
    call: tuple[str, str], client_options: dict[str, Any], api: httpx.Client, sandbox: Sandbox
) -> None:
    method, path = call
    path = path.format(id=sandbox.sandbox_id)
    before = {row["sandboxID"] for row in api.get("/v2/sandboxes").json()}

    for body in RUBBISH:
        answer = api.request(method, path, content=body, headers={"Content-Type": "application/json"})
        # What all fields are optional for may find nothing wrong in it.
        harmless = path.endswith(("refreshes", "connect")) and answer.status_code < 300
        assert harmless or 400 <= answer.status_code < 500, (body[:80], answer.status_code, answer.text[:300])
        assert len(answer.content) < 2000

    assert {row["sandboxID"] for row in api.get("/v2/sandboxes").json()} == before
    assert sandbox.commands.run("echo here").stdout == "here\n"


def test_many_requests_on_one_connection_are_answered_in_their_order(
    client_options: dict[str, Any], sandbox: Sandbox
) -> None:
    door = Door.of(client_options)
    paths = ["/v1/health", "/v2/sandboxes", f"/sandboxes/{sandbox.sandbox_id}", "/no/such"] * 25
    requests = [door.request("GET", path) for path in paths]
    requests.append(door.request("GET", "/v1/health", headers={"Connection": "close"}))

    answers = door.say(b"".join(requests)).split(b"HTTP/1.1 ")[1:]

    assert [answer[:3] for answer in answers] == [b"200", b"200", b"200", b"404"] * 25 + [b"200"]
    assert json.loads(answers[2].partition(b"\r\n\r\n")[2])["sandboxID"] == sandbox.sandbox_id
