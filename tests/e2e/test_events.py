"""The released clients create and end sandboxes; events and webhooks tell of it, as E2B documents them."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import AsyncSandbox, Sandbox
from e2b.exceptions import SandboxException
from support.home import LiveHome, fresh_home
from support.receiver import Received, Receiver, receiver

SECRET = "s3cret"
CREATED, UPDATED, CHECKPOINTED, KILLED = (
    f"sandbox.lifecycle.{word}" for word in ("created", "updated", "checkpointed", "killed")
)
SETTINGS = '[webhooks]\nnetworks = "127.0.0.0/8"\nretry_delay = "200ms"\n'


@pytest.fixture(scope="module")
def home() -> Iterator[LiveHome]:
    with fresh_home(SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def options(home: LiveHome) -> dict[str, Any]:
    return home.client_options


@pytest.fixture(scope="module")
def api(options: dict[str, Any]) -> Iterator[httpx.Client]:
    headers = {"X-API-Key": options["api_key"]}
    with httpx.Client(base_url=options["api_url"], headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


def hook(api: httpx.Client, url: str, *events: str) -> str:
    wish = {"name": "e2e", "url": url, "enabled": True, "events": list(events), "signatureSecret": SECRET}
    answer = api.post("/events/webhooks", json=wish)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def of(api: httpx.Client, sandbox_id: str) -> list[dict[str, Any]]:
    answer = api.get(f"/events/sandboxes/{sandbox_id}", params={"orderAsc": "true", "limit": 100})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def told_about(there: Receiver, path: str, sandbox_id: str, number: int) -> list[Received]:
    """Wait until a receiver has heard so many things about a sandbox, in the order of their happening."""

    def ours() -> list[Received]:
        return [one for one in there.received if one.path == path and one.event["sandboxId"] == sandbox_id]

    there.wait_until(lambda: len(ours()) >= number)
    return sorted(ours(), key=lambda one: str(one.event["id"]))


def test_a_life_is_listed_and_delivered(api: httpx.Client, options: dict[str, Any], there: Receiver) -> None:
    webhook_id = hook(api, there.url("/all"), CREATED, UPDATED, KILLED)

    sandbox = Sandbox.create("minimal", timeout=120, metadata={"for": "tests"}, **options)
    sandbox.set_timeout(300)
    assert sandbox.kill()
    got = told_about(there, "/all", sandbox.sandbox_id, 3)

    events = of(api, sandbox.sandbox_id)
    assert [event["type"] for event in events] == [CREATED, UPDATED, KILLED]
    assert [one.event for one in got] == events
    assert all(one.is_signed_with(SECRET) for one in got)
    assert {one.headers["e2b-webhook-id"] for one in got} == {webhook_id}
    assert events[0]["eventData"] == {"sandbox_metadata": {"for": "tests"}}
    execution = events[2]["eventData"]["execution"]
    assert execution["memory_mb"] == sandbox_memory(api)
    assert 0 < execution["execution_time"] < 120_000
    assert events[2]["eventData"]["reason"] == "killed"
    assert api.delete(f"/events/webhooks/{webhook_id}").status_code == 200


def test_a_snapshot_and_a_fork_are_told(api: httpx.Client, options: dict[str, Any], there: Receiver) -> None:
    webhook_id = hook(api, there.url("/snapshots"), CHECKPOINTED)
    sandbox = Sandbox.create("minimal", timeout=120, metadata={"for": "tests"}, **options)
    snapshot = sandbox.create_snapshot()
    [fork] = sandbox.fork(count=1, timeout=60)
    assert isinstance(fork, Sandbox)

    got = told_about(there, "/snapshots", sandbox.sandbox_id, 2)
    fork.kill()
    sandbox.kill()
    Sandbox.delete_snapshot(snapshot.snapshot_id, **options)

    assert [event["type"] for event in of(api, sandbox.sandbox_id)] == [
        CREATED,
        CHECKPOINTED,
        CHECKPOINTED,
        KILLED,
    ]
    taken = got[0].event["eventData"]
    assert taken["sandbox_metadata"] == {"for": "tests"}
    assert snapshot.snapshot_id.removesuffix(":default") == taken["snapshot_id"]
    api.delete(f"/events/webhooks/{webhook_id}")


def sandbox_memory(api: httpx.Client) -> int:
    """What the template gives."""
    [template] = [one for one in api.get("/templates").json() if "minimal" in one["aliases"]]
    return int(template["memoryMB"])


async def test_the_same_with_asyncio(api: httpx.Client, options: dict[str, Any]) -> None:
    sandbox = await AsyncSandbox.create("minimal", timeout=60, **options)
    assert await sandbox.kill()
    assert not await AsyncSandbox.kill(sandbox.sandbox_id, **options)

    assert [event["type"] for event in of(api, sandbox.sandbox_id)] == [CREATED, KILLED]


def test_ends_that_nobody_asked_for_are_told_with_their_reason(
    api: httpx.Client, options: dict[str, Any], there: Receiver
) -> None:
    webhook_id = hook(api, there.url("/ends"), KILLED)
    late = Sandbox.create("minimal", timeout=2, **options)
    suicidal = Sandbox.create("minimal", timeout=120, **options)
    # Nobody is left to answer.
    with pytest.raises(Exception):  # noqa: B017, PT011  whichever way the stream ends
        suicidal.commands.run("kill -9 -1; kill -9 1", user="root", timeout=20)

    reasons = {}
    for sandbox in (late, suicidal):
        [one] = told_about(there, "/ends", sandbox.sandbox_id, 1)
        reasons[sandbox.sandbox_id] = one.event["eventData"]["reason"]

    assert reasons[late.sandbox_id] == "deadline"
    assert reasons[suicidal.sandbox_id] in {"guest_ended", "runtime_ended"}
    api.delete(f"/events/webhooks/{webhook_id}")


def test_a_create_that_fails_is_nobodys_event(api: httpx.Client, options: dict[str, Any]) -> None:
    before = api.get("/events/sandboxes", params={"limit": 1}).json()

    with pytest.raises(SandboxException, match="not found"):
        Sandbox.create("no-such-template", **options)

    assert api.get("/events/sandboxes", params={"limit": 1}).json() == before


def test_a_restarted_server_goes_on_where_it_was(
    home: LiveHome, api: httpx.Client, options: dict[str, Any], there: Receiver
) -> None:
    webhook_id = hook(api, there.url("/slow"), CREATED)
    sandbox = Sandbox.create("minimal", timeout=120, **options)
    there.wait("/slow", 1)

    os.kill(home.server_pid(), signal.SIGKILL)
    there.release.set()
    home.start()

    limit = time.monotonic() + 20
    log = f"/events/webhooks/{webhook_id}/deliveries"
    while (lines := api.get(log).json())[0]["status"] != "success":
        assert time.monotonic() < limit, lines
        time.sleep(0.1)
    ids = {one.headers["e2b-delivery-id"] for one in there.at("/slow")}
    assert ids == {lines[0]["id"]}
    assert [event["type"] for event in of(api, sandbox.sandbox_id)] == [CREATED]
    sandbox.kill()
    api.delete(f"/events/webhooks/{webhook_id}")


def test_sandboxes_and_this_host_are_out_of_reach(api: httpx.Client, options: dict[str, Any]) -> None:
    """Private addresses are refused when they are named, also where loopback is allowed."""
    for url in ("http://169.254.1.1/", "http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest"):
        wish = {"name": "e2e", "url": url, "events": [CREATED], "signatureSecret": SECRET}
        answer = api.post("/events/webhooks", json=wish)
        assert answer.status_code == 400
        assert "not a public address" in answer.json()["message"]
