"""Secrets with our own API and client, over the real control: no answer and no text holds a value."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.live_api import KEY, OTHER_KEY, LiveApi, live_api

import atoll
from atoll import AsyncSecret, Network, Sandbox, Secret
from atoll.server.control.owned.secrets import MOST_LISTED

VALUE = "sk-live-t0ps3cret"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(Path(tmp_path_factory.mktemp("secrets"))) as opened:
        yield opened


@pytest.fixture
def options(api: LiveApi) -> dict[str, str]:
    return {"api_url": api.url, "api_key": KEY}


def call(api: LiveApi, method: str, path: str, **wishes: Any) -> httpx.Response:
    return httpx.request(method, f"{api.url}{path}", headers={"X-API-Key": KEY}, **wishes)


def test_a_secret_is_kept_found_listed_changed_and_deleted(options: dict[str, str]) -> None:
    made = Secret.create("My Key", VALUE, metadata={"for": "tests"}, **options)

    assert (made.name, made.version, made.metadata) == ("my key", 1, {"for": "tests"})
    assert Secret.get("MY KEY", **options) == Secret.get(made.id, **options) == made
    assert Secret.list(**options) == [made]

    second = Secret.update("my key", "another", **options)
    third = Secret.update(made.id, "another", metadata={}, **options)

    assert (second.id, second.version, second.metadata) == (made.id, 2, {"for": "tests"})
    assert (third.version, third.metadata) == (3, {})
    Secret.delete("My Key", **options)
    assert Secret.list(**options) == []
    for reference in ("my key", made.id):
        with pytest.raises(atoll.NotFoundError):
            Secret.get(reference, **options)
        with pytest.raises(atoll.NotFoundError):
            Secret.update(reference, "x", **options)
        with pytest.raises(atoll.NotFoundError):
            Secret.delete(reference, **options)


def test_a_name_is_had_once_whatever_its_case(options: dict[str, str]) -> None:
    Secret.create("once", VALUE, **options)

    with pytest.raises(atoll.AlreadyExistsError):
        Secret.create("ONCE", VALUE, **options)
    Secret.delete("once", **options)


def test_strangers_neither_see_nor_change_nor_delete_it(options: dict[str, str]) -> None:
    strangers = {**options, "api_key": OTHER_KEY}
    made = Secret.create("private", VALUE, **options)

    assert Secret.list(**strangers) == []
    for reference in ("private", made.id):
        for verb in (Secret.get, Secret.delete):
            with pytest.raises(atoll.NotFoundError):
                verb(reference, **strangers)
        with pytest.raises(atoll.NotFoundError):
            Secret.update(reference, "x", **strangers)
    assert Secret.get("private", **options) == made
    Secret.delete("private", **options)


@pytest.mark.parametrize("name", ["a.b", "..", ".", "what?", "100 %", "a#b", "ä€😀", "a" * 128, "a&b=c"])
def test_names_of_any_kind_are_found_again(options: dict[str, str], name: str) -> None:
    made = Secret.create(name, VALUE, **options)

    assert Secret.get(name, **options) == made
    Secret.delete(name, **options)


@pytest.mark.parametrize("name", ["", "a" * 129, "a/b", "{a}", "a\nb", "a\0b", " a", "sec_a"])
def test_a_name_that_is_none_is_refused(options: dict[str, str], name: str) -> None:
    with pytest.raises(atoll.InvalidArgumentError, match="name of a secret"):
        Secret.create(name, VALUE, **options)


@pytest.mark.parametrize(("value", "says"), [("", "1 to 65536"), ("x" * 65537, "1 to 65536")])
def test_a_value_that_is_none_is_refused_and_not_repeated(
    options: dict[str, str], value: str, says: str
) -> None:
    with pytest.raises(atoll.InvalidArgumentError, match=says) as refused:
        Secret.create("bad", value, **options)
    assert "xxx" not in str(refused.value)


def test_a_body_far_too_long_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(atoll.ResourceExhaustedError, match="body is longer"):
        Secret.create("bad", "x" * 2_000_000, **options)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        {"name": "x", "value": None},
        {"name": "x", "value": [VALUE]},
        {"name": "x", "value": VALUE, "more": VALUE},
        {"name": 1, "value": VALUE},
        {"name": "x", "value": VALUE, "metadata": {"a": 1}},
        {"name": "x", "value": VALUE, "metadata": {"a": "x" * 2000}},
    ],
)
def test_a_wrong_body_is_refused_without_its_value(api: LiveApi, body: dict[str, Any]) -> None:
    answer = call(api, "POST", "/v1/secrets", json=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert VALUE not in answer.text


@pytest.mark.parametrize(("limit", "pages"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_the_last_page_of_e2bs_list_has_no_token(
    api: LiveApi, options: dict[str, str], limit: int, pages: int
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        Secret.create(name, VALUE, **options)
    found: list[list[str]] = []
    params = {"limit": str(limit)}
    while True:
        answer = call(api, "GET", "/secrets", params=params)
        found.append([one["name"] for one in answer.json()])
        if (token := answer.headers.get("X-Next-Token")) is None:
            break
        params["nextToken"] = token

    assert [one for page in found for one in page] == names
    assert len(found) == pages
    for name in names:
        Secret.delete(name, **options)


def test_a_full_page_behind_which_nothing_comes_has_no_token(api: LiveApi, options: dict[str, str]) -> None:
    for name in ("a", "b"):
        Secret.create(name, VALUE, **options)

    page = call(api, "GET", "/v1/secrets", params={"limit": 2}).json()

    assert [one["name"] for one in page["secrets"]] == ["a", "b"]
    assert page["next_page_token"] is None
    for name in ("a", "b"):
        Secret.delete(name, **options)


def test_lists_come_whole_and_in_the_order_of_names(api: LiveApi, options: dict[str, str]) -> None:
    # Names as long as there may be, of characters as long as there are: tokens name places in them.
    names = sorted(f"{number:03}" + "😀" * 125 for number in range(MOST_LISTED + 1))
    for name in reversed(names):
        Secret.create(name, VALUE, **options)

    first = call(api, "GET", "/v1/secrets", params={"limit": 60}).json()
    rest = call(api, "GET", "/v1/secrets", params={"page_token": first["next_page_token"]}).json()

    assert [one.name for one in Secret.list(**options)] == names
    assert [one["name"] for one in (*first["secrets"], *rest["secrets"])] == names
    assert rest["next_page_token"] is None
    for name in names:
        Secret.delete(name, **options)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "page_token=%00", "page_token=" + "A" * 1000])
def test_a_wrong_query_is_refused(api: LiveApi, query: str) -> None:
    assert call(api, "GET", f"/v1/secrets?{query}").status_code == 400


def test_no_answer_log_or_text_holds_a_value(
    api: LiveApi, options: dict[str, str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    rule = Network(headers={"api.example.com": {"Authorization": f"Bearer {Secret.fill('Seen')}"}})
    texts = [
        repr(Secret.create("seen", VALUE, **options)),
        repr(Secret.update("seen", VALUE + "2", **options)),
        call(api, "POST", "/v1/secrets", json={"name": "seen", "value": VALUE}).text,
        call(api, "PUT", "/v1/secrets/nosuch", json={"value": VALUE}).text,
        call(api, "PUT", "/v1/secrets/seen", json={"value": VALUE, "no": 1}).text,
        call(api, "GET", "/v1/secrets").text,
        call(api, "GET", "/v1/secrets/seen").text,
        call(api, "GET", "/secrets/seen").text,
    ]
    with Sandbox.create(network=rule, **options) as sandbox:
        shown = call(api, "GET", f"/v1/sandboxes/{sandbox.id}").text
    Secret.delete("seen", **options)

    assert "${e2b.secrets.seen}" in shown
    said = capfd.readouterr()
    assert "secret created" in said.out + said.err + caplog.text
    for text in (*texts, shown, caplog.text, said.out, said.err):
        assert VALUE not in text
    files = [path.read_bytes() for path in api.world.directory.glob("atoll.db*")]
    assert files
    assert all(VALUE.encode() not in content for content in files)


def test_a_placeholder_is_made_of_names_only() -> None:
    assert Secret.fill("My Key") == AsyncSecret.fill("my key") == "${e2b.secrets.my key}"
    for name in ("", "a}", "{", "a/b", "a\nb"):
        with pytest.raises(atoll.InvalidArgumentError):
            Secret.fill(name)


async def test_the_asynchronous_client_is_content(options: dict[str, str]) -> None:
    made = await AsyncSecret.create("async", VALUE, **options)

    assert await AsyncSecret.get("async", **options) == made
    assert (await AsyncSecret.update("async", "x", **options)).version == 2
    assert [one.name for one in await AsyncSecret.list(**options)] == ["async"]
    await AsyncSecret.delete(made.id, **options)
    assert await AsyncSecret.list(**options) == []
