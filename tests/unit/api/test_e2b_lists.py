"""The E2B dialect's lists."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from e2b.api.client.models import TemplateBuildStatus, TemplateWithBuilds
from fakes.control import BASE, FakeControl

from atoll.server.api.e2b.unavailable import UNAVAILABLE
from atoll.server.domain.ids import TemplateId


async def create(client: httpx.AsyncClient, **body: Any) -> str:
    response = await client.post("/v2/sandboxes", json={"templateID": "base"} | body)
    assert response.status_code == 201, response.text
    return str(response.json()["sandboxID"])


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["sandboxID"] for row in response.json()]


@pytest.mark.parametrize("order", [None, "desc", "asc"])
async def test_pages_hold_every_sandbox_once_in_order(client: httpx.AsyncClient, order: str | None) -> None:
    made = [await create(client) for _ in range(7)]
    params: dict[str, Any] = {"limit": 3} | ({"order": order} if order else {})

    seen: list[str] = []
    pages = 0
    while True:
        response = await client.get("/v2/sandboxes", params=params)
        seen += ids(response)
        pages += 1
        assert response.headers["X-Total-Running"] == "7"
        if (token := response.headers.get("X-Next-Token")) is None:
            break
        params["nextToken"] = token

    assert pages == 3
    assert seen == (made if order == "asc" else made[::-1])


async def test_only_running_sandboxes_that_match_are_counted(client: httpx.AsyncClient) -> None:
    made = [await create(client, metadata={"n": str(number % 2)}) for number in range(6)]
    for sandbox_id in made[:3]:
        assert (await client.post(f"/sandboxes/{sandbox_id}/pause")).status_code == 204

    async def counted(query: str) -> tuple[int, str | None]:
        answer = await client.get(f"/v2/sandboxes?{query}")
        return len(ids(answer)), answer.headers.get("X-Total-Running")

    assert await counted("") == (6, "3")
    assert await counted("state=running,paused&limit=2") == (2, "3")
    assert await counted("state=running") == (3, "3")
    assert await counted("metadata=n%3D0") == (3, "1")
    # Running ones were not asked for.
    assert await counted("state=paused") == (3, None)


async def test_filters_hold_together(client: httpx.AsyncClient, control: FakeControl) -> None:
    first = await create(client, metadata={"k y": "v&", "n": "1"})
    control.clock.turn(60)
    later = control.clock.now().isoformat()
    second = await create(client, metadata={"n": "1"})

    async def listed(query: str) -> list[str]:
        return ids(await client.get(f"/v2/sandboxes?{query}"))

    assert await listed("metadata=k%252520y%3Dv%252526") == [first]
    assert await listed("metadata=n%3D1") == [second, first]
    assert await listed("metadata=n%3D2") == []
    assert await listed("state=running,paused") == [second, first]
    assert await listed("state=paused") == []
    assert await listed("template=base") == [second, first]
    assert await listed("template=other") == []
    assert await listed(f"startedAfter={later.replace('+', '%2B')}") == [second]
    assert ids(await client.get("/sandboxes?metadata=k%252520y%3Dv%252526")) == [first]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("order=up", "order"),
        ("state=dead", "state"),
        ("metadata=novalue", "metadata"),
        ("metadata=a%3D%2500", "metadata"),
        ("startedAfter=yesterday", "startedAfter"),
        ("startedAfter=2026-01-01T00:00:00", "startedAfter"),
        ("nextToken=AAAA", "next token"),
        ("template=" + "x" * 300, "template"),
    ],
)
async def test_a_wrong_query_is_named(client: httpx.AsyncClient, query: str, names: str) -> None:
    response = await client.get(f"/v2/sandboxes?{query}")

    assert response.status_code == 400
    assert names in response.json()["message"]


async def test_the_old_list_has_all(client: httpx.AsyncClient) -> None:
    made = [await create(client) for _ in range(3)]

    assert ids(await client.get("/sandboxes")) == made[::-1]


@pytest.mark.parametrize("path", ["/templates", "/v2/templates", "/default-templates"])
async def test_templates_are_listed(client: httpx.AsyncClient, path: str) -> None:
    [template] = (await client.get(path)).json()

    assert (template["templateID"], template["aliases"]) == ("base-3f1c9a27d0b4", ["base"])
    assert (template["buildStatus"], template["envdVersion"]) == ("ready", "0.6.13")


async def test_pages_of_templates_hold_each_once(
    client: httpx.AsyncClient, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"t{number}" for number in range(5)]
    there = [replace(BASE, id=TemplateId(f"{name}-0"), name=name) for name in names]
    monkeypatch.setattr(control, "templates", lambda _: asyncio.sleep(0, there))

    async def pages(limit: int) -> list[list[str]]:
        found: list[list[str]] = []
        params: dict[str, Any] = {"limit": limit}
        while True:
            answer = await client.get("/v2/templates", params=params)
            assert answer.status_code == 200, answer.text
            found.append([one["aliases"][0] for one in answer.json()])
            if (token := answer.headers.get("X-Next-Token")) is None:
                return found
            params["nextToken"] = token

    assert await pages(2) == [names[:2], names[2:4], names[4:]]
    assert await pages(5) == [names]
    whole = await client.get("/templates", params={"limit": 2})
    assert (len(whole.json()), "X-Next-Token" in whole.headers) == (5, False)


@pytest.mark.parametrize("path", ["/v2/templates", "/templates/base"])
@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "nextToken=%00", "nextToken=A"])
async def test_a_wrong_page_of_templates_is_refused(client: httpx.AsyncClient, path: str, query: str) -> None:
    assert (await client.get(f"{path}?{query}")).status_code == 400


@pytest.mark.parametrize("name", ["base", "base:latest", "base-3f1c9a27d0b4"])
async def test_a_template_is_shown_with_its_one_build(client: httpx.AsyncClient, name: str) -> None:
    [listed] = (await client.get("/v2/templates")).json()
    answer = await client.get(f"/templates/{name}", params={"limit": 1})

    assert answer.status_code == 200
    assert "X-Next-Token" not in answer.headers
    shown = TemplateWithBuilds.from_dict(answer.json())
    [build] = shown.builds
    assert (shown.template_id, shown.aliases) == ("base-3f1c9a27d0b4", ["base"])
    assert str(build.build_id) == shown.build_id == listed["buildID"]
    assert (build.status, build.cpu_count, build.memory_mb) == (TemplateBuildStatus.READY, 1, 512)
    assert build.finished_at == BASE.built_at
    assert answer.json() == listed | {"builds": answer.json()["builds"]}


async def test_a_template_that_is_not_there_has_no_builds(client: httpx.AsyncClient) -> None:
    assert (await client.get("/templates/nope")).json()["message"] == "template 'nope' not found"
    assert (await client.get("/templates/base:v2")).status_code == 404


async def test_an_alias_is_found_or_free(client: httpx.AsyncClient) -> None:
    assert (await client.get("/templates/aliases/base")).json() == {
        "templateID": "base-3f1c9a27d0b4",
        "public": True,
    }
    assert (await client.get("/templates/aliases/team%2Fnope")).status_code == 404
    assert (await client.delete("/templates/nope")).status_code == 404


@pytest.mark.parametrize("name", ["base", "base:default", "base-3f1c9a27d0b4"])
async def test_a_template_of_the_servers_is_not_its_callers_to_delete(
    client: httpx.AsyncClient, name: str
) -> None:
    answer = await client.delete(f"/templates/{name}")

    assert answer.status_code == 403
    assert answer.json() == {
        "code": 403,
        "message": "template 'base' is the server's own: callers cannot delete it",
    }
    assert (await client.get("/templates/aliases/base")).status_code == 200


async def test_a_tag_is_read_wherever_a_template_is_named(client: httpx.AsyncClient) -> None:
    for tag in (":latest", ":default"):
        sandbox_id = await create(client, templateID=f"base{tag}")
        detail = (await client.get(f"/sandboxes/{sandbox_id}")).json()
        assert (detail["templateID"], detail["alias"]) == ("base-3f1c9a27d0b4", "base")
        assert sandbox_id in ids(await client.get(f"/v2/sandboxes?template=base{tag}"))
        assert sandbox_id in ids(await client.get("/v2/sandboxes?template=base"))
        alias = await client.get(f"/templates/aliases/base{tag}")
        assert alias.json()["templateID"] == "base-3f1c9a27d0b4"

    for answer in (
        await client.post("/v2/sandboxes", json={"templateID": "base:v2"}),
        await client.post("/sandboxes", json={"templateID": "base:v2"}),
        await client.get("/templates/aliases/base:v2"),
        await client.delete("/templates/base:v2"),
    ):
        assert answer.status_code == 404
        assert answer.json()["message"] == "tag 'v2' does not exist for template 'base'"
    assert ids(await client.get("/v2/sandboxes?template=base:v2")) == []


@pytest.mark.parametrize(("method", "path"), sorted(UNAVAILABLE))
async def test_what_is_not_there_yet_says_so_and_is_not_sent_again(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    filled = path.replace("{", "").replace("}", "")

    response = await client.request(method, filled, json={})

    assert response.status_code == 501
    assert response.headers["Should-Retry"] == "false"
    assert "not available" in response.json()["message"]
