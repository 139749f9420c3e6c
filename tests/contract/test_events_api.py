"""Events and webhooks over HTTP, as E2B documents them: the real control, store and dialect on a port."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.live_api import KEY, OTHER_KEY, LiveApi, live_api

NOBODY = "i" + "0" * 20
HOOK = {
    "name": "My hook",
    "url": "https://example.com/hook",
    "enabled": True,
    "events": ["sandbox.lifecycle.created", "sandbox.lifecycle.killed"],
    "signatureSecret": "t0ps3cret",
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LiveApi]:
    with live_api(tmp_path) as live:
        yield live


@pytest.fixture
def mine(api: LiveApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, headers={"X-API-Key": KEY}, timeout=30) as client:
        yield client


@pytest.fixture
def other(api: LiveApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, headers={"X-API-Key": OTHER_KEY}, timeout=30) as client:
        yield client


def create(client: httpx.Client, **wish: Any) -> str:
    answer = client.post("/v2/sandboxes", json={"templateID": "base", "timeout": 300, **wish})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sandboxID"])


def types(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [event["type"].removeprefix("sandbox.lifecycle.") for event in answer.json()]


def test_the_life_of_a_sandbox_is_listed(mine: httpx.Client) -> None:
    sandbox_id = create(mine, metadata={"k": "ü"})
    assert mine.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": 600}).status_code == 204
    assert mine.put(f"/sandboxes/{sandbox_id}/network", json={"denyOut": ["1.1.1.1"]}).status_code == 204
    assert mine.delete(f"/sandboxes/{sandbox_id}").status_code == 204

    answer = mine.get(f"/events/sandboxes/{sandbox_id}", params={"orderAsc": "true"})

    assert types(answer) == ["created", "updated", "updated", "killed"]
    created, timeout, network, killed = answer.json()
    assert created["eventData"] == {"sandbox_metadata": {"k": "ü"}}
    assert list(timeout["eventData"]) == ["set_timeout"]
    assert network["eventData"] == {"set_network": True}
    assert killed["eventData"]["execution"]["vcpu_count"] > 0
    assert {event["sandboxId"] for event in answer.json()} == {sandbox_id}
    assert len({event["id"] for event in answer.json()}) == 4
    assert len({event["sandboxExecutionId"] for event in answer.json()}) == 1
    assert all(
        datetime.fromisoformat(event["timestamp"]).utcoffset() == timedelta(0) for event in answer.json()
    )


def test_lists_have_pages_orders_and_types(mine: httpx.Client) -> None:
    first, second = create(mine), create(mine)
    for sandbox_id in (first, second):
        mine.delete(f"/sandboxes/{sandbox_id}")
    for _ in range(4):
        create(mine)

    everything = mine.get("/events/sandboxes", params={"limit": 100}).json()
    pages = [mine.get("/events/sandboxes", params={"limit": 3, "offset": n}).json() for n in (0, 3, 6)]
    ascending = mine.get("/events/sandboxes", params={"limit": 100, "orderAsc": "true"}).json()

    assert len(everything) == 8
    assert [*pages[0], *pages[1], *pages[2]] == everything == ascending[::-1]
    assert len(mine.get("/events/sandboxes").json()) == 8
    for _ in range(4):
        create(mine)
    assert len(mine.get("/events/sandboxes").json()) == 10
    killed = "sandbox.lifecycle.killed"
    assert types(mine.get("/events/sandboxes", params={"types": killed})) == ["killed"] * 2
    both = f"{killed},sandbox.lifecycle.paused"
    assert types(mine.get("/events/sandboxes", params={"types": both})) == ["killed"] * 2
    repeated = [("types", killed), ("types", "sandbox.lifecycle.created"), ("limit", "100")]
    assert len(mine.get("/events/sandboxes", params=repeated).json()) == 12
    assert types(mine.get(f"/events/sandboxes/{first}")) == ["killed", "created"]


def test_nobody_sees_what_is_not_theirs(mine: httpx.Client, other: httpx.Client) -> None:
    sandbox_id = create(mine)
    hook = mine.post("/events/webhooks", json=HOOK).json()["id"]

    assert other.get("/events/sandboxes").json() == []
    assert other.get(f"/events/sandboxes/{sandbox_id}").json() == []
    assert mine.get(f"/events/sandboxes/{NOBODY}").json() == []
    assert other.get("/events/webhooks").json() == []
    for answer in (
        other.get(f"/events/webhooks/{hook}"),
        other.patch(f"/events/webhooks/{hook}", json={"enabled": False}),
        other.delete(f"/events/webhooks/{hook}"),
        other.get(f"/events/webhooks/{hook}/deliveries"),
        mine.get("/events/webhooks/nobody"),
        mine.patch("/events/webhooks/" + "x" * 2000, json={}),
        mine.delete("/events/webhooks/%00"),
        mine.get("/events/webhooks/../deliveries"),
    ):
        assert answer.status_code == 404, answer.text
        assert answer.json()["code"] == 404
    assert mine.get(f"/events/webhooks/{hook}").json()["enabled"] is True
    for path in ("/events/sandboxes", "/events/webhooks", f"/events/webhooks/{hook}"):
        assert httpx.get(f"{mine.base_url}{path}").status_code == 401


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=101", "limit=x", "offset=-1", "offset=99999999999999999999", "orderAsc=maybe",
        "types=created", "types=sandbox.lifecycle.nope", "types=%00",
        "types=" + ",".join(["sandbox.lifecycle.created"] * 101),
    ],
)  # fmt: skip
def test_bad_questions_are_refused(mine: httpx.Client, query: str) -> None:
    for path in ("/events/sandboxes", f"/events/sandboxes/{NOBODY}"):
        answer = mine.get(f"{path}?{query}")
        assert answer.status_code == 400, answer.text
        assert len(answer.text) < 2000
    assert mine.get("/events/sandboxes/no-id-this").status_code == 400


def test_a_webhook_is_made_read_changed_and_deleted(mine: httpx.Client) -> None:
    made = mine.post("/events/webhooks", json=HOOK)
    assert made.status_code == 201, made.text
    hook = made.json()
    assert hook["teamID"] == hook["teamId"]
    assert {name: hook[name] for name in ("name", "url", "enabled", "events")} == {
        name: HOOK[name] for name in ("name", "url", "enabled", "events")
    }
    datetime.fromisoformat(hook["createdAt"])
    path = f"/events/webhooks/{hook['id']}"
    assert mine.get(path).json() == hook
    assert mine.get("/events/webhooks").json() == [hook]

    change = {"url": "https://example.com/other", "enabled": False, "events": ["sandbox.lifecycle.updated"]}
    changed = mine.patch(path, json=change)
    assert changed.status_code == 200
    assert changed.json() == {**hook, **change} == mine.get(path).json()
    assert mine.patch(path, json={}).json() == changed.json()
    assert mine.patch(path, json={"signatureSecret": "another", "name": "x"}).status_code == 200

    assert mine.delete(path).status_code == 200
    assert mine.delete(path).status_code == 404
    assert mine.get("/events/webhooks").json() == []


def test_a_secret_is_shown_nowhere(api: LiveApi, mine: httpx.Client) -> None:
    answers = [mine.post("/events/webhooks", json=HOOK), mine.get("/events/webhooks")]
    answers.append(mine.post("/events/webhooks", json={**HOOK, "signatureSecret": 7}))
    answers.append(mine.post("/events/webhooks", json={**HOOK, "signatureSecret": "t0ps3cret" * 1000}))

    assert [answer.status_code for answer in answers] == [201, 200, 400, 400]
    for answer in answers:
        assert "t0ps3cret" not in answer.text
    for part in api.world.directory.glob("atoll.db*"):
        assert b"t0ps3cret" not in part.read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://127.0.0.1:9/"}, {"url": "http://169.254.169.254/latest"}, {"url": "nope"},
        {"url": ""}, {"url": "ftp://example.com/"}, {"url": 7}, {"url": None}, {"url": "https://u:p@example.com/"},
        {"events": []}, {"events": ["created"]}, {"events": "sandbox.lifecycle.created"}, {"events": [7]},
        {"events": ["sandbox.lifecycle.created"] * 1000}, {"name": ""}, {"name": "x" * 129}, {"name": "a\0"},
        {"enabled": "yes"}, {"signatureSecret": ""}, {"signatureSecret": None},
    ],
    ids=lambda wrong: str(wrong)[:50],
)  # fmt: skip
def test_bad_webhooks_are_refused(mine: httpx.Client, wrong: dict[str, Any]) -> None:
    answer = mine.post("/events/webhooks", json={**HOOK, **wrong})

    assert answer.status_code == 400, answer.text
    assert len(answer.text) < 1000
    hook = mine.post("/events/webhooks", json=HOOK).json()
    if None not in wrong.values():
        assert mine.patch(f"/events/webhooks/{hook['id']}", json=wrong).status_code == 400
    assert mine.get("/events/webhooks").json() == [hook]


def test_a_webhook_lacks_nothing_and_bodies_have_a_bound(mine: httpx.Client) -> None:
    for name in ("name", "url", "events", "signatureSecret"):
        body = {key: value for key, value in HOOK.items() if key != name}
        assert mine.post("/events/webhooks", json=body).status_code == 400
    for body in (b"", b"[]", b"null", b"{", b'{"name": NaN}'):
        assert mine.post("/events/webhooks", content=body).status_code == 400
    assert mine.post("/events/webhooks", content=b"x" * 10_000_000).status_code == 413
    assert mine.post("/events/webhooks", json={**HOOK, "name": "x" * 2_000_000}).status_code == 413
    assert mine.get("/events/webhooks").json() == []


def test_a_team_has_so_many_webhooks_and_no_more(mine: httpx.Client, other: httpx.Client) -> None:
    hooks = [mine.post("/events/webhooks", json=HOOK).json()["id"] for _ in range(10)]

    refused = mine.post("/events/webhooks", json=HOOK)

    assert refused.status_code == 429
    assert refused.headers["Should-Retry"] == "false"
    assert "10" in refused.json()["message"]
    assert other.post("/events/webhooks", json=HOOK).status_code == 201
    assert mine.delete(f"/events/webhooks/{hooks[0]}").status_code == 200
    assert mine.post("/events/webhooks", json=HOOK).status_code == 201


def test_the_delivery_log_shows_what_waits(mine: httpx.Client) -> None:
    hook = mine.post("/events/webhooks", json=HOOK).json()["id"]
    ids = [create(mine) for _ in range(3)]
    path = f"/events/webhooks/{hook}/deliveries"

    lines = mine.get(path, params={"orderAsc": "true"})

    assert [line["sandboxId"] for line in lines.json()] == ids
    assert {line["status"] for line in lines.json()} == {"pending"}
    assert "X-Next-Cursor" not in lines.headers
    seen, cursor = [], ""
    while True:
        page = mine.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [line["sandboxId"] for line in page.json()]
        if not (cursor := page.headers.get("X-Next-Cursor", "")):
            break
    assert seen == ids[::-1]
    assert "X-Next-Cursor" not in mine.get(path, params={"limit": 3}).headers
    assert len(mine.get(path, params={"deliveryStatus": "pending,failed"}).json()) == 3
    assert mine.get(path, params={"deliveryStatus": "success"}).json() == []
    mine.patch(f"/events/webhooks/{hook}", json={"enabled": False})
    assert {line["status"] for line in mine.get(path).json()} == {"dropped"}
    for bad in ("limit=0", "limit=101", "cursor=x", "cursor=-1", "cursor=" + "9" * 20, "deliveryStatus=lost"):
        assert mine.get(f"{path}?{bad}").status_code == 400
