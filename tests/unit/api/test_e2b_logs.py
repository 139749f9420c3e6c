"""Logs as E2B's clients ask for them, in both versions."""

import json
from datetime import UTC, datetime

import httpx
import pytest
from fakes.control import OTHER_KEY, FakeControl

from atoll.server.domain.ids import new_sandbox_id


async def made(client: httpx.AsyncClient) -> str:
    return str((await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"])


async def test_the_first_version_has_lines_as_text_that_the_command_line_reads(
    client: httpx.AsyncClient,
) -> None:
    sandbox_id = await made(client)

    answer = (await client.get(f"/sandboxes/{sandbox_id}/logs")).json()

    lines = [json.loads(one["line"]) for one in answer["logs"]]
    assert [line["message"] for line in lines] == ["sandbox created", "sandbox started"]
    assert all(line["level"] == "info" and isinstance(line["logger"], str) for line in lines)
    assert [one["message"] for one in answer["logEntries"]] == ["sandbox created", "sandbox started"]


async def test_the_second_version_goes_both_ways_from_a_cursor(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    sandbox_id = await made(client)
    path = f"/v2/sandboxes/{sandbox_id}/logs"
    created = (await client.get(path)).json()["logs"][0]["timestamp"]
    moment = int(datetime.fromisoformat(created).replace(tzinfo=UTC).timestamp() * 1000)

    async def found(**query: object) -> list[str]:
        answer = await client.get(path, params={name: str(value) for name, value in query.items()})
        return [line["message"] for line in answer.json()["logs"]]

    assert await found(direction="backward") == ["sandbox started", "sandbox created"]
    assert await found(direction="backward", limit=1) == ["sandbox started"]
    assert await found(direction="backward", cursor=moment) == []
    assert len(await found(cursor=moment)) == 2
    assert await found(cursor=moment + 60_000) == []
    assert await found(search="STARTED") == ["sandbox started"]
    assert await found(level="warn") == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "cursor=-1",
        "cursor=99999999999999999999",
        "direction=up",
        "level=loud",
        f"search={'x' * 257}",
    ],
)
async def test_what_makes_no_sense_is_refused(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v2/sandboxes/{await made(client)}/logs?{query}")

    assert answer.status_code == 400


async def test_logs_of_others_are_not_there(client: httpx.AsyncClient) -> None:
    sandbox_id = await made(client)

    for path in (
        f"/sandboxes/{sandbox_id}/logs",
        f"/v2/sandboxes/{sandbox_id}/logs",
        f"/v1/sandboxes/{sandbox_id}/logs",
    ):
        assert (await client.get(path, headers={"X-API-Key": OTHER_KEY})).status_code == 404
    assert (await client.get(f"/sandboxes/{new_sandbox_id()}/logs")).status_code == 404


async def test_our_own_api_reads_them_too(client: httpx.AsyncClient) -> None:
    sandbox_id = await made(client)

    lines = (await client.get(f"/v1/sandboxes/{sandbox_id}/logs", params={"newest_first": True})).json()
    metrics = (await client.get(f"/v1/sandboxes/{sandbox_id}/metrics")).json()
    naive = await client.get(f"/v1/sandboxes/{sandbox_id}/logs", params={"start": "2026-01-01T00:00:00"})

    assert [line["message"] for line in lines] == ["sandbox started", "sandbox created"]
    assert metrics[0]["memory_bytes"] > 0
    assert naive.status_code == 400
