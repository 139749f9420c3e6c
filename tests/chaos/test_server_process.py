"""A real server over fake machines is killed, stopped and taken down; the next one puts things right."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from support.sources import PYTHONPATH

from atoll.server.runtimes.fake.runtime import DESTROY_PLACES, START_PLACES
from atoll.server.settings.home import Home, open_home


def few(places: list[str], *kept: str) -> list[Any]:
    """Leave others to who has time: in tests/unit/control all are died at, without a process for each."""
    return [place if place in kept else pytest.param(place, marks=pytest.mark.heavy) for place in places]


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    # Its path must be short: sockets are in it.
    return open_home(tmp_path_factory.mktemp("h"))


def command(home: Home, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.fake_server", str(home.path), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )


@contextmanager
def server(home: Home, *words: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    with command(home, *words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        transport = httpx.HTTPTransport(uds=str(home.api_socket))
        headers = {"X-API-Key": home.api_key()}
        try:
            with httpx.Client(
                transport=transport, base_url="http://api", headers=headers, timeout=30
            ) as client:
                yield process, client
        finally:
            process.kill()


def create(client: httpx.Client) -> str:
    answer = client.post("/v2/sandboxes", json={"templateID": "base", "timeout": 300})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sandboxID"])


def running(client: httpx.Client) -> set[str]:
    answer = client.get("/v2/sandboxes")
    assert answer.status_code == 200, answer.text
    return {row["sandboxID"] for row in answer.json()}


def machines(home: Home) -> set[str]:
    return {path.name for path in home.sandboxes.iterdir()}


def test_sandboxes_live_on_when_the_server_stops_and_the_next_one_has_them(home: Home) -> None:
    with server(home) as (process, client):
        sandbox = create(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0

    assert machines(home) == {sandbox}
    assert not home.api_socket.exists()
    with server(home) as (_, client):
        assert running(client) == {sandbox}


@pytest.mark.parametrize("place", few([*START_PLACES, "configure"], "configure"))
def test_a_create_that_kill_9_cut_off_is_undone(home: Home, place: str) -> None:
    with server(home) as (_, client):
        kept = create(client)
    with server(home, place) as (process, client):
        with pytest.raises(httpx.TransportError):
            create(client)
        assert process.wait(timeout=30) == -signal.SIGKILL

    with server(home) as (process, client):
        assert running(client) == {kept}
        client.delete(f"/sandboxes/{kept}").raise_for_status()
        # Stopping waits for what is being removed.
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert machines(home) == set()


@pytest.mark.parametrize("place", few(["forget", *DESTROY_PLACES], DESTROY_PLACES[-1]))
def test_a_kill_that_kill_9_cut_off_is_finished(home: Home, place: str) -> None:
    with server(home) as (_, client):
        kept, killed = create(client), create(client)
    with server(home, place) as (process, client):
        with pytest.raises(httpx.TransportError):
            client.delete(f"/sandboxes/{killed}")
        assert process.wait(timeout=30) == -signal.SIGKILL

    with server(home) as (process, client):
        assert running(client) == {kept}
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert machines(home) == {kept}


def test_one_home_has_one_server(home: Home) -> None:
    with server(home) as (process, client), command(home) as second:
        _, errors = second.communicate(timeout=30)

        assert second.returncode == 1
        assert f"process {process.pid}" in errors
        assert running(client) == set()


def test_taking_down_ends_server_and_sandboxes(home: Home) -> None:
    with server(home) as (process, client):
        create(client)
        with command(home, "take-down") as taking_down:
            _, errors = taking_down.communicate(timeout=60)

        assert taking_down.returncode == 0, errors
        assert process.wait(timeout=30) == 0
    assert machines(home) == set()
    assert (home.path / "taken-down").exists()
    assert list(home.run.glob("*.sock")) == []


def create_persistent(client: httpx.Client) -> str:
    answer = client.post("/v1/sandboxes", json={"template": "base", "persistent": True})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def until_runs(client: httpx.Client, sandbox_id: str) -> dict[str, Any]:
    limit = time.monotonic() + 30
    while (row := client.get(f"/v1/sandboxes/{sandbox_id}").json())["status"] != "running":
        assert time.monotonic() < limit, row
        time.sleep(0.05)
    assert isinstance(row, dict)
    return row


def test_parking_ends_the_server_and_the_next_one_has_all_of_them(home: Home) -> None:
    with server(home) as (process, client):
        other, kept = create(client), create_persistent(client)
        with command(home, "park") as parking:
            _, errors = parking.communicate(timeout=60)

        assert parking.returncode == 0, errors
        assert process.wait(timeout=30) == 0
    assert not (home.path / "taken-down").exists()
    assert {path.name for path in home.checkpoints.iterdir()} == {f"{kept}-1"}
    with server(home) as (_, client):
        assert until_runs(client, kept)["generation"] == 2
        assert until_runs(client, other)["generation"] == 1


@pytest.mark.parametrize("place", few(["checkpoint:1", "checkpoint:2", "abandon"], "abandon"))
@pytest.mark.parametrize("host_falls", [False, True])
def test_parking_that_kill_9_cut_off_loses_nothing_that_is_there(
    home: Home, place: str, host_falls: bool
) -> None:
    with server(home) as (_, client):
        kept = create_persistent(client)
        (home.sandboxes / kept / "files").write_text("written")
        with command(home, "park", place) as parking:
            assert parking.wait(timeout=60) == -signal.SIGKILL
    if host_falls:
        (home.sandboxes / kept / "process").unlink()

    with server(home) as (_, client):
        # By "abandon" it has been written down and ended: only its remains are removed then.
        assert until_runs(client, kept)["generation"] == (2 if host_falls or place == "abandon" else 1)
    if not host_falls or place != "checkpoint:1":
        assert (home.sandboxes / kept / "files").read_text() == "written"


def test_taking_down_works_when_the_database_is_damaged(home: Home) -> None:
    with server(home) as (_, client):
        create(client)
    home.database.write_bytes(b"damaged" * 1000)
    for extra in home.path.glob("atoll.db-*"):
        extra.unlink()

    with command(home, "take-down") as taking_down:
        _, errors = taking_down.communicate(timeout=60)

    assert taking_down.returncode == 0, errors
    assert machines(home) == set()


def test_taking_down_with_a_damaged_database_keeps_what_is_paused(home: Home) -> None:
    """The database may come back from a backup: what it names must still be there."""
    with server(home) as (_, client):
        answer = client.post(f"/sandboxes/{create(client)}/pause")
        assert answer.status_code == 204, answer.text
    kept = sorted(path.name for path in home.checkpoints.iterdir())
    home.database.write_bytes(b"damaged" * 1000)
    for extra in home.path.glob("atoll.db-*"):
        extra.unlink()

    with command(home, "take-down") as taking_down:
        _, errors = taking_down.communicate(timeout=60)

    assert taking_down.returncode == 0, errors
    assert kept
    assert sorted(path.name for path in home.checkpoints.iterdir()) == kept


def test_the_log_has_one_json_object_a_line(home: Home) -> None:
    with server(home) as (process, client):
        create(client)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)

    lines = [json.loads(line) for line in home.server_log.read_text().splitlines()]
    assert {"server ready", "sandbox started", "server stopped"} <= {line["event"] for line in lines}
    assert home.server_log.read_text().count(home.api_key()) == 0
