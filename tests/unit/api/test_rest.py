"""Our own API: routes, and the document that describes them."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from fakes.control import BASE, FakeControl

from atoll.server.control.requests import MountWish
from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import OnDeadline
from atoll.server.domain.upkeep import Restart, Upkeep


async def create(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/sandboxes", json=body)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_create_with_everything_reaches_control_as_it_was_meant(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    sandbox = await create(
        client,
        template="base",
        timeout_seconds=60,
        metadata={"user": "ada"},
        env={"X": "1"},
        internet=False,
        secured=True,
        limits={"cpus": 2, "memory_bytes": 10**9, "processes": 100, "disk_bytes": 10**9},
        volumes=[{"volume": "notes", "path": "/data"}],
        on_deadline="pause",
        auto_resume=True,
    )

    [wish] = control.wishes
    assert wish.timeout == timedelta(seconds=60)
    assert (wish.metadata, wish.env, wish.egress.internet, wish.secured) == (
        {"user": "ada"},
        {"X": "1"},
        False,
        True,
    )
    assert (wish.limits.cpus, wish.limits.memory_bytes) == (2.0, 10**9)
    assert (wish.limits.processes, wish.limits.disk_bytes) == (100, 10**9)
    assert wish.volumes == (MountWish(name="notes", path="/data"),)
    assert (wish.on_deadline, wish.auto_resume) == (OnDeadline.PAUSE, True)
    assert sandbox["access_token"] == control.access_token(SandboxId(sandbox["id"]))
    assert (sandbox["status"], sandbox["domain"], sandbox["internet"]) == ("running", "localhost:4000", False)


async def test_how_a_sandbox_is_kept_is_said_and_shown(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    kept = {"snapshot_every_seconds": 600, "keep_snapshots": 5, "idle_timeout_seconds": 90}
    lasting = await create(client, persistent=True, **kept)
    never = await create(client, persistent=True, restart="never")
    other = await create(client, restart="from_snapshot")
    plain = await create(client)

    assert control.wishes[0].upkeep == Upkeep(
        persistent=True,
        restart=Restart.FROM_SNAPSHOT,
        snapshot_every=timedelta(minutes=10),
        keep_snapshots=5,
        idle_timeout=timedelta(seconds=90),
    )
    assert {name: lasting[name] for name in kept} == kept
    assert (lasting["persistent"], lasting["restart"], lasting["deadline"]) == (True, "from_snapshot", None)
    assert (never["persistent"], never["restart"]) == (True, "never")
    assert (other["persistent"], other["restart"]) == (False, "from_snapshot")
    assert (plain["persistent"], plain["restart"], plain["fall"]) == (False, "never", None)
    assert plain["deadline"] is not None
    wrong = await client.post("/v1/sandboxes", json={"restart": "always"})
    assert wrong.status_code == 400


async def test_private_traffic_has_a_token_of_its_own(client: httpx.AsyncClient) -> None:
    incoming = {"public": False, "mask_host": "localhost", "https_ports": [8443]}
    sandbox = await create(client, incoming=incoming)
    public = await create(client)

    listed = (await client.get("/v1/sandboxes")).json()["sandboxes"]

    assert sandbox["incoming"] == incoming
    assert len(sandbox["traffic_token"]) == 64
    assert public["traffic_token"] is None
    assert [one["traffic_token"] for one in listed] == [None, None]


async def test_network_rules_are_kept_shown_and_replaced(client: httpx.AsyncClient) -> None:
    headers = {"a.example": {"X-A": "${e2b.secrets.a}"}}
    proxy = {
        "address": "p:1080",
        "username": "u",
        "password": "hush",
        "tls": {"server_name": "p", "ca_cert": ""},
    }
    rules = {
        "allow_out": ["1.1.1.1"],
        "deny_out": ["0.0.0.0/0"],
        "dns_servers": [],
        "headers": headers,
        "proxy": proxy,
    }
    sandbox = await create(client, network=rules)

    changed = await client.put(f"/v1/sandboxes/{sandbox['id']}/network", json={"deny_out": ["8.8.8.8"]})
    wrong = await client.put(f"/v1/sandboxes/{sandbox['id']}/network", json={"denyOut": []})

    assert sandbox["network"] == {**rules, "proxy": {**proxy, "password": ""}}
    assert changed.json()["network"] == {
        "allow_out": [], "deny_out": ["8.8.8.8"], "dns_servers": [], "headers": {}, "proxy": None,
    }  # fmt: skip
    assert (changed.status_code, wrong.status_code) == (200, 400)


async def test_a_sandbox_shows_neither_its_address_nor_its_environment(client: httpx.AsyncClient) -> None:
    sandbox = await create(client, env={"PASSWORD": "hunter2"})

    text = (await client.get(f"/v1/sandboxes/{sandbox['id']}")).text

    assert "10.0.0.2" not in text
    assert "hunter2" not in text


async def test_an_empty_create_takes_the_defaults(client: httpx.AsyncClient, control: FakeControl) -> None:
    await create(client)

    [wish] = control.wishes
    assert (wish.template, wish.timeout) == ("base", timedelta(seconds=300))
    assert (wish.volumes, wish.on_deadline, wish.auto_resume) == ((), OnDeadline.KILL, False)
    assert wish.egress.internet


async def test_a_killed_sandbox_says_why_it_is_gone(client: httpx.AsyncClient) -> None:
    sandbox = await create(client)
    one = f"/v1/sandboxes/{sandbox['id']}"

    killed = (await client.delete(one)).json()
    found = (await client.get(one)).json()
    again = await client.delete(one)

    assert (killed["status"], killed["end_reason"]) == ("killed", "killed")
    assert found == killed
    assert found["access_token"] is None
    assert (again.status_code, again.json()["code"]) == (404, "not_found")


async def test_the_deadline_is_set_or_only_extended(client: httpx.AsyncClient) -> None:
    sandbox = await create(client, timeout_seconds=300)
    one = f"/v1/sandboxes/{sandbox['id']}/timeout"

    kept = (await client.post(one, json={"timeout_seconds": 5, "extend_only": True})).json()["deadline"]
    moved = (await client.post(one, json={"timeout_seconds": 5})).json()["deadline"]

    assert kept == sandbox["deadline"]
    assert moved == "2026-05-04T12:00:05.124456Z"


async def test_pages_hold_every_sandbox_once(client: httpx.AsyncClient) -> None:
    made = [(await create(client, metadata={"n": str(number)}))["id"] for number in range(5)]

    seen: list[str] = []
    token: str | None = None
    while True:
        params = {"limit": "2", "order": "oldest_first"} | ({"page_token": token} if token else {})
        page = (await client.get("/v1/sandboxes", params=params)).json()
        seen += [row["id"] for row in page["sandboxes"]]
        assert page["total"] == 5
        assert all(row["access_token"] is None for row in page["sandboxes"])
        if (token := page["next_page_token"]) is None:
            break

    assert seen == made
    one = (await client.get("/v1/sandboxes", params={"metadata": "n=3"})).json()
    assert [row["id"] for row in one["sandboxes"]] == [made[3]]


async def test_ended_sandboxes_are_listed_when_asked_for(client: httpx.AsyncClient) -> None:
    sandbox = await create(client)
    await client.delete(f"/v1/sandboxes/{sandbox['id']}")

    default = (await client.get("/v1/sandboxes")).json()
    killed = (await client.get("/v1/sandboxes", params={"status": ["killed", "failed"]})).json()

    assert default["sandboxes"] == []
    assert [row["id"] for row in killed["sandboxes"]] == [sandbox["id"]]


async def test_usage_and_kills_for_memory_are_told(client: httpx.AsyncClient) -> None:
    one = f"/v1/sandboxes/{(await create(client))['id']}"

    assert (await client.get(f"{one}/usage")).json()["memory_bytes"] == 32 * 1024**2
    assert (await client.get(f"{one}/memory-kills")).json() == [
        {"pid": 7, "command": "python3", "resident_bytes": 500000000}
    ]


async def test_templates_are_listed_and_found(client: httpx.AsyncClient) -> None:
    [listed] = (await client.get("/v1/templates")).json()

    assert listed["name"] == "base"
    assert (await client.get("/v1/templates/base")).json() == listed
    assert (await client.get(f"/v1/templates/{BASE.id}")).json() == listed
    missing = await client.get("/v1/templates/nope")
    assert (missing.status_code, missing.json()["message"]) == (404, "template 'nope' not found")


async def test_a_template_that_is_not_built_says_how_to_build_it(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    text = "template 'minimal' not found: its recipe exists, but it is not built"
    control.failure = NotFoundError(text, details="/a/path/of/the/host")

    made = await client.post("/v1/sandboxes", json={"template": "minimal"})

    assert (made.status_code, made.json()["code"], made.json()["message"]) == (404, "not_found", text)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"timeout_seconds": -1}, "body timeout_seconds"),
        ({"timeout_seconds": 0}, "body timeout_seconds"),
        ({"timeout_seconds": "60"}, "body timeout_seconds"),
        ({"timeout_seconds": 10**40}, "body timeout_seconds"),
        ({"timeout": 60}, "body timeout"),
        ({"template": "a\0"}, "NUL"),
        ({"template": "x" * 1000}, "body template"),
        ({"limits": {"cpus": "2"}}, "body limits.cpus"),
        ({"limits": {"memory_bytes": 1.5}}, "body limits.memory_bytes"),
        ({"limits": {"gpus": 1}}, "body limits.gpus"),
        ({"metadata": {"a": None}}, "body metadata.a"),
        ({"on_deadline": "sleep"}, "body on_deadline"),
        ({"auto_resume": "yes"}, "body auto_resume"),
        ({"volumes": {"/data": "notes"}}, "body volumes"),
        ({"volumes": [{"name": "notes", "path": "/data"}]}, "body volumes.0.volume"),
        ({"volumes": [{"volume": "notes", "path": "/a\0"}]}, "NUL"),
    ],
)
async def test_wrong_input_is_named(client: httpx.AsyncClient, body: dict[str, Any], says: str) -> None:
    response = await client.post("/v1/sandboxes", json=body)

    assert response.status_code == 400
    assert response.json()["code"] == "invalid_argument"
    assert says in response.json()["message"]


@pytest.mark.parametrize(
    "query", ["status=dead", "metadata=x", "metadata==x", "limit=0", "limit=1001", "order=up", "page_token=x"]
)
async def test_a_wrong_query_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/v1/sandboxes?{query}")).status_code == 400


async def test_the_document_describes_every_operation_with_its_errors(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method} {path}"
            assert operation["summary"], name
            assert operation["description"], name
            assert "422" not in operation["responses"], name
            if path != "/v1/health" and not path.startswith("/.well-known/"):
                assert operation["security"], name
                problem = operation["responses"]["401"]["content"]["application/json"]["schema"]
                # The edge, which serves the contents of volumes, gives requests no ids.
                form = "ContentProblem" if path.startswith("/volumecontent/") else "Problem"
                assert problem == {"$ref": f"#/components/schemas/{form}"}, name
    assert "ValidationError" not in str(document)
    assert document["components"]["schemas"]["CreateSandbox"]["examples"]


async def test_the_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    script = await client.get("/docs/static/swagger-ui-bundle.js")

    assert "https://" not in page
    assert "//cdn" not in page
    assert script.status_code == 200
    assert len(script.content) > 500_000
    assert (await client.get("/docs/static/../../../etc/passwd")).status_code == 404
