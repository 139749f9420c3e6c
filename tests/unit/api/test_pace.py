"""Requests are counted by key, and every answer tells how many are left."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from fakes.apps import public_app
from fakes.control import KEY, OTHER_KEY, FakeControl
from fakes.verbs import verbs_over

from atoll.server.api.app import PublicAddress
from atoll.server.api.limits import ApiLimits
from atoll.server.api.pace import Pace
from atoll.server.domain.team_limits import TeamLimits

SECOND = "e2b_" + "c3" * 20


class Watch:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = ApiLimits(rate_requests=3, rate_window_seconds=60)
    app = public_app(verbs_over(FakeControl()), PublicAddress(domain="localhost:4000"), limits)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://api", headers={"X-API-Key": KEY}
    ) as opened:
        yield opened


def test_a_window_passes_so_many_and_the_next_one_again() -> None:
    watch = Watch()
    pace = Pace(window_seconds=30, now=watch)

    first = [pace.take("a", limit=2) for _ in range(4)]
    watch.time += 29.5
    late = pace.take("a", limit=2)
    watch.time += 0.5
    second = pace.take("a", limit=2)

    assert [one.passes for one in first] == [True, True, False, False]
    assert [one.remaining for one in first] == [1, 0, 0, 0]
    assert (first[0].reset_seconds, late.passes, late.reset_seconds) == (30, False, 1)
    assert (second.passes, second.remaining, second.reset_seconds) == (True, 1, 30)


def test_keys_do_not_count_for_each_other_and_old_ones_are_forgotten() -> None:
    watch = Watch()
    pace = Pace(window_seconds=30, now=watch)

    for wave in range(20):
        assert all(pace.take((wave, key), limit=1).passes for key in range(1000))
        watch.time += 31

    assert len(pace._windows) <= 3000


async def test_every_answer_tells_and_the_one_too_many_is_refused_for_a_while(
    client: httpx.AsyncClient,
) -> None:
    answers = [
        await client.get("/sandboxes"),
        await client.get("/no-such-path"),
        await client.get("/v1/sandboxes"),
    ]
    refused = [await client.get("/sandboxes"), await client.get("/v1/sandboxes")]

    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0"]
    assert {answer.headers["RateLimit-Limit"] for answer in answers + refused} == {"3"}
    for answer in refused:
        assert answer.status_code == 429
        assert answer.headers.get_list("Should-Retry") == ["true"]
        assert 0 < int(answer.headers["Retry-After"]) <= 60
        assert answer.headers["RateLimit-Reset"] == answer.headers["Retry-After"]
        assert "3 requests in 60 s" in answer.json()["message"]
        assert "X-Request-Id" in answer.headers
    assert refused[0].json()["code"] == 429


async def test_other_keys_and_calls_without_one_are_not_held_up(client: httpx.AsyncClient) -> None:
    for _ in range(5):
        await client.get("/sandboxes")

    other = await client.get("/sandboxes", headers={"X-API-Key": OTHER_KEY})
    health = await client.get("/health")
    unknown = await client.get("/sandboxes", headers={"X-API-Key": "e2b_" + "0" * 40})

    assert (other.status_code, other.headers["RateLimit-Remaining"]) == (200, "2")
    assert health.status_code == 204
    assert unknown.status_code == 401
    assert "RateLimit-Limit" not in health.headers
    assert "RateLimit-Limit" not in unknown.headers


async def test_nothing_is_counted_where_there_is_no_limit() -> None:
    app = public_app(
        verbs_over(FakeControl()), PublicAddress(domain="localhost:4000"), ApiLimits(rate_requests=0)
    )

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api", headers={"X-API-Key": KEY}
    ) as caller:
        answer = await caller.get("/sandboxes")

    assert answer.status_code == 200
    assert "RateLimit-Limit" not in answer.headers


@pytest.mark.parametrize("home_rate", [0, 3])
async def test_a_team_with_a_limit_of_its_own_is_counted_with_all_of_its_keys(home_rate: int) -> None:
    control = FakeControl()
    one, two = (replace(control.keys[KEY], key_id=key_id) for key_id in ("one", "two"))
    own = TeamLimits(requests_per_second=2)
    control.keys = {
        KEY: replace(one, limits=own),
        SECOND: replace(two, limits=own),
        OTHER_KEY: control.keys[OTHER_KEY],
    }
    limits = ApiLimits(rate_requests=home_rate, rate_window_seconds=3)
    app = public_app(verbs_over(control), PublicAddress(domain="localhost:4000"), limits)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api") as client:

        async def call(key: str, path: str = "/sandboxes") -> httpx.Response:
            return await client.get(path, headers={"X-API-Key": key})

        passed = [await call(key) for key in (KEY, SECOND) * 3]
        refused = [await call(key, path) for key in (KEY, SECOND) for path in ("/v1/sandboxes", "/sandboxes")]
        others = await call(OTHER_KEY)

    assert [one.status_code for one in passed] == [200] * 6
    assert [one.headers["RateLimit-Remaining"] for one in passed] == ["5", "4", "3", "2", "1", "0"]
    assert {one.headers["RateLimit-Limit"] for one in passed} == {"6"}
    assert [one.status_code for one in refused] == [429] * 4
    assert refused[0].json()["code"] == "resource_exhausted"
    assert refused[1].json()["code"] == 429
    assert all(one.headers["Should-Retry"] == "true" and "Retry-After" in one.headers for one in refused)
    assert others.status_code == 200
    assert others.headers.get("RateLimit-Limit") == (str(home_rate) if home_rate else None)
