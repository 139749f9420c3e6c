"""A real server, over fake machines, is killed by SIGKILL around its deliveries; the next one makes them."""

import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from chaos.test_server_process import create, server
from support.receiver import Receiver, receiver

from atoll.server.settings.home import Home, open_home

SECRET = "s3cret"
SETTINGS = """
[webhooks]
networks = "127.0.0.0/8"
retry_delay = "100ms"
retry_delay_most = "200ms"
attempts = 1000
"""
CREATED, KILLED = "sandbox.lifecycle.created", "sandbox.lifecycle.killed"


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    # Its path must be short: sockets are in it.
    made = open_home(tmp_path_factory.mktemp("h"))
    made.settings.write_text(SETTINGS)
    return made


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


def hook(client: httpx.Client, url: str) -> str:
    wish = {"name": "n", "url": url, "events": [CREATED, KILLED], "signatureSecret": SECRET}
    answer = client.post("/events/webhooks", json=wish)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ended(client: httpx.Client, webhook_id: str) -> list[dict[str, Any]]:
    """Read the log of deliveries when none waits any more."""
    limit = time.monotonic() + 20
    while True:
        path = f"/events/webhooks/{webhook_id}/deliveries"
        found: list[dict[str, Any]] = client.get(path, params={"limit": 100, "orderAsc": "true"}).json()
        if all(line["status"] != "pending" for line in found):
            return found
        assert time.monotonic() < limit, found
        time.sleep(0.05)


def test_a_delivery_that_was_under_way_is_made_by_the_next_server(home: Home, there: Receiver) -> None:
    with server(home) as (process, client):
        webhook_id = hook(client, there.url("/slow"))
        sandbox_id = create(client)
        [first] = there.wait("/slow", 1)
        process.send_signal(signal.SIGKILL)
        process.wait()

    with server(home) as (process, client):
        again = there.wait("/slow", 2)[1]
        there.release.set()
        [line] = ended(client, webhook_id)
        process.terminate()
        process.wait()

    assert again.is_signed_with(SECRET)
    assert again.body == first.body
    assert again.headers["e2b-delivery-id"] == first.headers["e2b-delivery-id"] == line["id"]
    assert (line["status"], line["sandboxId"], line["eventType"]) == ("success", sandbox_id, CREATED)


def test_what_nobody_took_is_delivered_when_somebody_is_there_again(home: Home) -> None:
    with receiver() as gone:
        port = gone.port
    with server(home) as (process, client):
        webhook_id = hook(client, gone.url("/hook"))
        sandbox_id = create(client)
        assert client.delete(f"/sandboxes/{sandbox_id}").status_code == 204
        # Killed at once: an attempt was made, or none.
        process.send_signal(signal.SIGKILL)
        process.wait()

    with receiver(port) as back, server(home) as (process, client):
        told = ended(client, webhook_id)
        events = client.get(f"/events/sandboxes/{sandbox_id}", params={"orderAsc": "true"}).json()
        process.terminate()
        process.wait()

    assert [line["status"] for line in told] == ["success", "success"]
    assert [event["type"] for event in events] == [CREATED, KILLED]
    got = sorted(back.at("/hook"), key=lambda one: str(one.event["id"]))
    assert [one.event for one in got] == events


def test_a_server_that_is_killed_all_the_time_delivers_everything(home: Home, there: Receiver) -> None:
    """At least once each, nothing that did not happen, and the log agrees."""
    created: list[str] = []
    webhook_id = ""
    for _ in range(3):
        with server(home) as (process, client):
            webhook_id = webhook_id or hook(client, there.url("/flaky/20"))
            created += [create(client) for _ in range(6)]
            process.send_signal(signal.SIGKILL)
            process.wait()

    with server(home) as (process, client):
        told = ended(client, webhook_id)
        process.terminate()
        process.wait()

    assert sorted(line["sandboxId"] for line in told) == sorted(created)
    assert {line["status"] for line in told} == {"success"}
    got = there.at("/flaky/20")
    assert {one.event["id"] for one in got} == {line["eventId"] for line in told}
    assert {one.event["sandboxId"] for one in got} == set(created)


def test_a_server_stops_at_once_though_a_receiver_is_slow(home: Home, there: Receiver) -> None:
    with server(home) as (process, client):
        hook(client, there.url("/slow"))
        create(client)
        there.wait("/slow", 1)
        began = time.monotonic()
        process.terminate()
        assert process.wait(20) == 0
        assert time.monotonic() - began < 5
