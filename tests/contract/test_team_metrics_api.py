"""A team's metrics as E2B's clients ask for them: what they say is what happened."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.live_api import KEY, OTHER_KEY, LiveApi, live_api

from atoll.server.domain.keys import DEFAULT_TEAM

METRICS = f"/teams/{DEFAULT_TEAM}/metrics"
HOME_KEY = "e2b_" + "c3" * 20
HOUR = timedelta(hours=1)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LiveApi]:
    with live_api(tmp_path, home_key=HOME_KEY) as live:
        yield live


@pytest.fixture
def mine(api: LiveApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, headers={"X-API-Key": KEY}, timeout=30) as client:
        yield client


def create(client: httpx.Client) -> str:
    answer = client.post("/v2/sandboxes", json={"templateID": "base", "timeout": 86_000})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sandboxID"])


def advance(api: LiveApi, by: timedelta) -> datetime:
    """Turn the clock on, without anything that waits for it in between; return what it shows."""

    async def turn() -> datetime:
        api.world.clock.advance(by)
        return api.world.clock.now()

    return asyncio.run_coroutine_threadsafe(turn(), api.loop).result(30)


def levels(points: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of those that ran, each once where it stays."""
    found = [point["concurrentSandboxes"] for point in points]
    return [one for place, one in enumerate(found) if place == 0 or found[place - 1] != one]


def test_a_teams_metrics_tell_how_many_ran_and_how_fast_they_started(
    api: LiveApi, mine: httpx.Client
) -> None:
    first = create(mine)
    advance(api, HOUR)
    second, third = create(mine), create(mine)
    advance(api, HOUR)
    assert mine.post(f"/sandboxes/{second}/pause", json={}).status_code == 204
    advance(api, HOUR)
    assert mine.delete(f"/sandboxes/{second}").status_code == 204
    advance(api, HOUR)
    assert mine.delete(f"/sandboxes/{first}").status_code == 204
    now = advance(api, HOUR)

    answer = mine.get(METRICS)

    assert answer.status_code == 200, answer.text
    points = answer.json()
    assert len(points) <= 1000
    # Those of a day, before anything was there, too; who was killed while it was paused ended once.
    assert levels(points) == [0, 1, 3, 2, 1]
    step = points[1]["timestampUnix"] - points[0]["timestampUnix"]
    assert sum(point["sandboxStartRate"] for point in points) * step == pytest.approx(3)
    assert points[-1]["timestampUnix"] == int(now.timestamp())
    assert datetime.fromisoformat(points[-1]["timestamp"]) == now
    most = mine.get(f"{METRICS}/max", params={"metric": "concurrent_sandboxes"}).json()
    assert most["value"] == 3
    assert datetime.fromisoformat(most["timestamp"]) == now - 4 * HOUR
    fastest = mine.get(f"{METRICS}/max", params={"metric": "sandbox_start_rate"}).json()
    assert fastest["value"] == pytest.approx(2 / 5)
    last = {"start": int((now - 30 * timedelta(minutes=1)).timestamp()), "end": int(now.timestamp())}
    assert levels(mine.get(METRICS, params=last).json()) == [1]
    assert [one["sandboxID"] for one in mine.get("/v2/sandboxes").json()] == [third]


def test_of_a_time_that_is_not_kept_there_is_nothing(api: LiveApi, mine: httpx.Client) -> None:
    create(mine)
    now = int(advance(api, 0 * HOUR).timestamp())

    assert mine.get(METRICS, params={"start": now + 10}).json() == []
    assert mine.get(METRICS, params={"end": now - 8 * 24 * 3600}).json() == []
    week = mine.get(METRICS, params={"start": 0}).json()
    assert week[0]["timestampUnix"] > now - 7 * 24 * 3600
    past = {"metric": "concurrent_sandboxes", "end": now - 8 * 24 * 3600}
    assert mine.get(f"{METRICS}/max", params=past).json()["value"] == 0


def test_the_last_second_there_is_is_answered_as_it_was_asked_for(mine: httpx.Client) -> None:
    create(mine)
    last = 253_402_300_799  # Its last microsecond is no number of seconds that a float holds.

    most = mine.get(f"{METRICS}/max", params={"metric": "concurrent_sandboxes", "start": last, "end": last})

    assert most.json()["timestampUnix"] == last


def test_only_a_team_and_the_homes_key_see_its_metrics(api: LiveApi, mine: httpx.Client) -> None:
    create(mine)

    for path in (METRICS, f"{METRICS}/max?metric=concurrent_sandboxes", "/teams/nobody/metrics"):
        answer = httpx.get(f"{api.url}{path}", headers={"X-API-Key": OTHER_KEY})
        assert answer.status_code == 404, answer.text
        assert answer.json()["code"] == 404
    assert httpx.get(f"{api.url}{METRICS}").status_code == 401
    theirs = httpx.get(f"{api.url}/teams/other/metrics", headers={"X-API-Key": HOME_KEY})
    assert levels(theirs.json()) == [0]


@pytest.mark.parametrize("query", ["start=x", "start=-1", "start=20&end=10", "end=99999999999999"])
def test_bad_times_are_refused(mine: httpx.Client, query: str) -> None:
    assert mine.get(f"{METRICS}?{query}").status_code == 400
    assert mine.get(f"{METRICS}/max?metric=concurrent_sandboxes&{query}").status_code == 400


@pytest.mark.parametrize("query", ["", "metric=", "metric=cpu"])
def test_a_metric_that_there_is_not_is_refused(mine: httpx.Client, query: str) -> None:
    assert mine.get(f"{METRICS}/max?{query}").status_code == 400
