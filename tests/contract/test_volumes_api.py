"""Volumes with our own API and client, over the real control and fake machines; e2e has what is in them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.live_api import KEY, OTHER_KEY, LiveApi, live_api

import atoll
from atoll import AsyncVolume, Sandbox, Volume, VolumeMount
from atoll.server.domain.volume import MOST_LISTED


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(Path(tmp_path_factory.mktemp("volumes"))) as opened:
        yield opened


@pytest.fixture
def options(api: LiveApi) -> dict[str, str]:
    return {"api_url": api.url, "api_key": KEY}


@pytest.fixture
def strangers(options: dict[str, str]) -> dict[str, str]:
    return {**options, "api_key": OTHER_KEY}


def call(api: LiveApi, method: str, path: str, **wishes: Any) -> httpx.Response:
    return httpx.request(method, f"{api.url}{path}", headers={"X-API-Key": KEY}, **wishes)


def test_a_volume_is_made_found_listed_and_deleted(options: dict[str, str]) -> None:
    with Volume.create("letters", **options) as made:
        assert (made.name, made.id[0]) == ("letters", "v")
        assert made.info.size_bytes == 10 * 1024**3
        for reference in ("letters", made.id):
            with Volume.get(reference, **options) as found:
                assert found.info == made.info
        assert Volume.list(**options) == [made.info]

    Volume.delete("letters", **options)

    assert Volume.list(**options) == []
    for reference in ("letters", made.id):
        with pytest.raises(atoll.NotFoundError, match="not found"):
            Volume.get(reference, **options)
        with pytest.raises(atoll.NotFoundError, match="not found"):
            Volume.delete(reference, **options)


def test_a_name_is_had_once_in_a_team(options: dict[str, str], strangers: dict[str, str]) -> None:
    mine, theirs = Volume.create("one", **options), Volume.create("one", **strangers)

    with pytest.raises(atoll.AlreadyExistsError, match="'one' exists"):
        Volume.create("one", **options)
    assert mine.id != theirs.id
    for team in (options, strangers):
        Volume.delete("one", **team)


def test_strangers_neither_see_nor_mount_nor_delete_it(
    options: dict[str, str], strangers: dict[str, str]
) -> None:
    made = Volume.create("private", **options)

    assert Volume.list(**strangers) == []
    for reference in ("private", made.id):
        with pytest.raises(atoll.NotFoundError):
            Volume.get(reference, **strangers)
        with pytest.raises(atoll.NotFoundError):
            Volume.delete(reference, **strangers)
        with pytest.raises(atoll.NotFoundError, match="not found"):
            Sandbox.create(volumes={"/data": reference}, **strangers)
    assert Volume.list(**options) == [made.info]
    Volume.delete("private", **options)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "..", "x" * 64, "ä", "a\0", "v" + "a" * 20])
def test_a_name_that_is_none_is_refused(options: dict[str, str], name: str) -> None:
    with pytest.raises(atoll.InvalidArgumentError, match="name"):
        Volume.create(name, **options)


@pytest.mark.parametrize("name", [".", "..", "a/b", "../sandboxes", "x" * 200, "ä", "a\0", "?x=1", "%2e"])
def test_what_cannot_be_a_name_is_not_found(options: dict[str, str], name: str) -> None:
    with pytest.raises(atoll.NotFoundError):
        Volume.get(name, **options)


@pytest.mark.parametrize("name", ["", "x" * 257, "\udcff"])
def test_what_is_no_reference_at_all_is_not_asked_for(options: dict[str, str], name: str) -> None:
    with pytest.raises(atoll.InvalidArgumentError, match="name"):
        Volume.get(name, **options)


def test_lists_come_whole_oldest_first_and_a_page_at_a_time(api: LiveApi, options: dict[str, str]) -> None:
    made = [Volume.create(f"many-{number}", **options) for number in range(MOST_LISTED + 1)]

    listed = Volume.list(**options)
    first = call(api, "GET", "/v1/volumes", params={"limit": 60}).json()
    second = call(
        api, "GET", "/v1/volumes", params={"limit": 60, "page_token": first["next_page_token"]}
    ).json()

    assert sorted(one.id for one in listed) == sorted(one.id for one in made)
    assert [one.created_at for one in listed] == sorted(one.created_at for one in listed)
    assert [one["id"] for one in (*first["volumes"], *second["volumes"])] == [one.id for one in listed]
    assert second["next_page_token"] is None
    # What opens their contents is for who asks for one.
    assert {one["token"] for one in first["volumes"]} == {None}
    for one in made:
        Volume.delete(one.id, **options)


def test_a_full_page_behind_which_nothing_comes_has_no_token(api: LiveApi, options: dict[str, str]) -> None:
    made = [Volume.create(f"two-{number}", **options) for number in range(2)]

    page = call(api, "GET", "/v1/volumes", params={"limit": 2}).json()

    assert sorted(one["id"] for one in page["volumes"]) == sorted(one.id for one in made)
    assert page["next_page_token"] is None
    for one in made:
        Volume.delete(one.id, **options)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "page_token=%00", "page_token=eA"])
def test_a_wrong_query_is_refused(api: LiveApi, query: str) -> None:
    assert call(api, "GET", f"/v1/volumes?{query}").status_code == 400


def test_a_body_with_words_that_we_do_not_know_is_refused(api: LiveApi) -> None:
    answer = call(api, "POST", "/v1/volumes", json={"name": "x", "size": 1})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


def test_a_sandbox_says_which_volumes_it_has_and_they_stay_with_it(options: dict[str, str]) -> None:
    named, given = Volume.create("named", **options), Volume.create("given", **options)

    with Sandbox.create(
        volumes={"/data": "named", "/more/of/it": given, "/listed": given.info}, **options
    ) as sandbox:
        told = sandbox.info().volumes
        for reference in ("named", given.id):
            with pytest.raises(atoll.FailedPreconditionError, match="in use"):
                Volume.delete(reference, **options)

    assert told == (
        VolumeMount(volume_id=named.id, name="named", path="/data"),
        VolumeMount(volume_id=given.id, name="given", path="/more/of/it"),
        VolumeMount(volume_id=given.id, name="given", path="/listed"),
    )
    for reference in ("named", "given"):
        Volume.delete(reference, **options)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/", "system"),
        ("/etc/x", "system"),
        ("relative", "cannot be mounted"),
        ("/a/../b", "cannot be mounted"),
        ("/a\0b", "NUL"),
        ("/" + "x" * 2000, "cannot be mounted"),
        ("/a/", "cannot be mounted"),
    ],
)
def test_a_place_that_will_not_do_is_refused(options: dict[str, str], path: str, says: str) -> None:
    made = Volume.create("somewhere", **options)
    try:
        with pytest.raises(atoll.InvalidArgumentError, match=says):
            Sandbox.create(volumes={path: made}, **options)
        assert Sandbox.list(**options) == []
    finally:
        Volume.delete("somewhere", **options)


def test_too_many_volumes_and_unknown_ones_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(atoll.InvalidArgumentError, match="at most 16"):
        Sandbox.create(volumes={f"/data/{number}": "x" for number in range(17)}, **options)
    with pytest.raises(atoll.NotFoundError, match="'nosuch' not found"):
        Sandbox.create(volumes={"/data": "nosuch"}, **options)


def test_no_text_of_a_volume_shows_what_opens_it(api: LiveApi, options: dict[str, str]) -> None:
    made = Volume.create("shy", **options)
    token = call(api, "GET", "/v1/volumes/shy").json()["token"]

    assert len(token) == 64
    assert token not in f"{made!r} {made.info!r} {made.files!r}"
    Volume.delete("shy", **options)


async def test_a_create_that_is_given_up_leaves_no_volume(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from atoll.sdk._async.api import AsyncApi

    answered, create = asyncio.Event(), AsyncApi.create_volume

    async def slow(self: AsyncApi, name: str) -> Any:
        made = await create(self, name)
        answered.set()
        await asyncio.sleep(0.2)
        return made

    monkeypatch.setattr(AsyncApi, "create_volume", slow)
    task = asyncio.ensure_future(AsyncVolume.create("given-up", **options))
    await answered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await AsyncVolume.list(**options) == []
