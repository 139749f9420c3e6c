"""Snapshots and forks with our own client and command line, over the real control and fake machines."""

import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes.live_api import KEY, OTHER_KEY, LiveApi, live_api
from fakes.world import small
from support.home import ATOLL

import atoll
from atoll import Sandbox, Snapshot
from atoll.server.control.lifecycle.snapshots import MOST_LISTED


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(Path(tmp_path_factory.mktemp("snapshots")), small(max_sandboxes=6)) as opened:
        yield opened


@pytest.fixture
def options(api: LiveApi) -> dict[str, str]:
    return {"api_url": api.url, "api_key": KEY}


@pytest.fixture
def sandbox(options: dict[str, str]) -> Iterator[Sandbox]:
    with Sandbox.create("base", metadata={"a": "b"}, **options) as made:
        yield made


def test_a_snapshot_is_taken_listed_created_from_and_deleted(
    sandbox: Sandbox, options: dict[str, str]
) -> None:
    first = sandbox.snapshot("ready")
    second = sandbox.snapshot("ready", memory=False)

    assert (first.name, first.memory, first.sandbox_id) == ("ready", True, sandbox.id)
    assert first.limits == sandbox.info().limits
    assert [(one.id, one.name, one.memory) for one in Snapshot.list(name="ready", **options)] == [
        (second.id, "ready", False)
    ]
    assert {one.id for one in Snapshot.list(sandbox_id=sandbox.id, **options)} == {first.id, second.id}
    with Sandbox.create("ready", **options) as child:
        assert child.info().template == "ready"
    for reference in ("ready", first.id):
        Snapshot.delete(reference, **options)
        with pytest.raises(atoll.NotFoundError):
            Snapshot.delete(reference, **options)
    assert Snapshot.list(**options) == []


def test_e2bs_clients_may_write_names_with_capitals_and_space(api: LiveApi, sandbox: Sandbox) -> None:
    with httpx.Client(base_url=api.url, headers={"X-API-Key": KEY}) as client:
        made = client.post(f"/sandboxes/{sandbox.id}/snapshots", json={"name": " My-Snap "})
        assert (made.status_code, made.json()["names"]) == (201, ["default/my-snap:default"])
        assert len(client.get("/snapshots", params={"name": "MY-SNAP"}).json()) == 1
        child = client.post("/sandboxes", json={"templateID": "My-Snap"})
        assert (child.status_code, child.json()["alias"]) == (201, "my-snap")
        assert client.delete(f"/sandboxes/{child.json()['sandboxID']}").status_code == 204
        assert client.get("/templates/aliases/Base").status_code == 200
        assert client.delete("/templates/My-Snap").status_code == 204
        assert client.get("/snapshots").json() == []


def test_lists_come_whole_and_to_their_owner(sandbox: Sandbox, options: dict[str, str]) -> None:
    made = [sandbox.snapshot() for _ in range(MOST_LISTED + 1)]

    assert {one.id for one in Snapshot.list(**options)} == {one.id for one in made}
    assert Snapshot.list(**{**options, "api_key": OTHER_KEY}) == []
    for one in made:
        Snapshot.delete(one.id, **options)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_the_last_page_of_e2bs_list_has_no_token(api: LiveApi, sandbox: Sandbox, limit: int) -> None:
    made = [sandbox.snapshot() for _ in range(4)]
    pages: list[list[str]] = []
    params = {"limit": str(limit), "sandboxID": sandbox.id}
    while True:
        answer = httpx.get(f"{api.url}/snapshots", params=params, headers={"X-API-Key": KEY})
        assert answer.status_code == 200, answer.text
        pages.append([one["snapshotID"].removesuffix(":default") for one in answer.json()])
        if (token := answer.headers.get("X-Next-Token")) is None:
            break
        params["nextToken"] = token

    assert sorted(one for page in pages for one in page) == sorted(one.id for one in made)
    assert len(pages) == math.ceil(4 / limit)
    for one in made:
        Snapshot.delete(one.id, api_url=api.url, api_key=KEY)


def test_a_full_page_behind_which_nothing_comes_has_no_token(api: LiveApi, sandbox: Sandbox) -> None:
    made = [sandbox.snapshot() for _ in range(2)]

    answer = httpx.get(
        f"{api.url}/v1/snapshots",
        params={"limit": 2, "sandbox_id": sandbox.id},
        headers={"X-API-Key": KEY},
    )

    assert sorted(one["id"] for one in answer.json()["snapshots"]) == sorted(one.id for one in made)
    assert answer.json()["next_page_token"] is None
    for one in made:
        Snapshot.delete(one.id, api_url=api.url, api_key=KEY)


def test_each_fork_is_a_sandbox_or_an_error(sandbox: Sandbox) -> None:
    made = sandbox.fork(7, timeout=60)

    sandboxes = [one for one in made if isinstance(one, Sandbox)]
    errors = [one for one in made if isinstance(one, atoll.ResourceExhaustedError)]
    assert (len(sandboxes), len(errors)) == (5, 2)
    assert {one.info().metadata["a"] for one in sandboxes} == {"b"}
    assert len({one.id for one in (sandbox, *sandboxes)}) == 6
    for one in sandboxes:
        one.kill()
        one.close()


def test_e2bs_forks_say_why_there_is_none_in_its_words(api: LiveApi, sandbox: Sandbox) -> None:
    answer = httpx.post(
        f"{api.url}/sandboxes/{sandbox.id}/fork", json={"count": 6}, headers={"X-API-Key": KEY}
    )

    [error] = [one["error"] for one in answer.json() if "error" in one]
    assert error == {
        "code": 429,
        "message": "The most sandboxes exist that this server may have (6)",
        "error_code": "sandbox_capacity_unavailable",
    }
    for one in answer.json():
        if "sandbox" in one:
            path = f"{api.url}/sandboxes/{one['sandbox']['sandboxID']}"
            assert httpx.delete(path, headers={"X-API-Key": KEY}).status_code == 204


def test_each_name_that_a_snapshot_may_have_deletes_it(api: LiveApi, sandbox: Sandbox) -> None:
    options = {"api_url": api.url, "api_key": KEY}
    for name in ("with_line", "with-dash", "0"):
        sandbox.snapshot(name)
        Snapshot.delete(name, **options)

    assert Snapshot.list(**options) == []
    for name in ("", "..", "../x", "é", "\ud800", "a" * 300):
        with pytest.raises((atoll.InvalidArgumentError, atoll.NotFoundError)):
            Snapshot.delete(name, **options)


@pytest.mark.parametrize("count", [True, "1", 1.5, [1]])
def test_a_number_of_forks_is_a_number(api: LiveApi, sandbox: Sandbox, count: object) -> None:
    for path, body in (
        ("/sandboxes", {"count": count}),
        ("/v1/sandboxes", {"count": count, "timeout_seconds": 60}),
    ):
        answer = httpx.post(
            f"{api.url}{path}/{sandbox.id}/fork",
            json=body,
            headers={"Authorization": f"Bearer {KEY}", "X-API-Key": KEY},
        )
        assert answer.status_code == 400, answer.text
        assert "count" in answer.text


def test_what_cannot_be_is_said(sandbox: Sandbox) -> None:
    with pytest.raises(atoll.InvalidArgumentError, match="1 to 64"):
        sandbox.snapshot("NO")
    with pytest.raises(atoll.AlreadyExistsError, match="base"):
        sandbox.snapshot("base")
    with pytest.raises(atoll.InvalidArgumentError, match="1 to 20"):
        sandbox.fork(21)


def test_the_command_line_has_them(api: LiveApi, sandbox: Sandbox) -> None:
    env = {**os.environ, "ATOLL_API_URL": api.url, "ATOLL_API_KEY": KEY, "COLUMNS": "200"}

    def run(*words: str) -> str:
        done = subprocess.run([ATOLL, *words], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    snapshot = run("sandbox", "snapshot", sandbox.id, "--name", "mine")
    shown = run("snapshot", "list", "--sandbox", sandbox.id)
    forks = run("sandbox", "fork", sandbox.id, "-n", "2").split()

    assert all(word in shown for word in (snapshot, "mine", "memory", sandbox.id))
    assert len(forks) == 2
    for one in forks:
        run("sandbox", "kill", one)
    run("snapshot", "delete", "mine")
    assert snapshot not in run("snapshot", "list", "--json")
