"""What nobody needs is collected by our API, our client and the command line."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes.live_api import KEY, LiveApi, live_api
from support.home import ATOLL

import atoll
from atoll.server.domain.keys import KeyKind, new_key

HOME = new_key(KeyKind.HOME)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LiveApi]:
    with live_api(tmp_path, home_key=HOME) as opened:
        yield opened


@pytest.fixture
def stray(api: LiveApi) -> Path:
    path = api.world.checkpoints.path("stray")
    path.mkdir()
    (path / "pages.img").write_bytes(b"x" * 5000)
    return path


def test_the_client_finds_and_removes_it(api: LiveApi, stray: Path) -> None:
    dry = atoll.Server.collect(dry_run=True, api_url=api.url, api_key=HOME)
    assert stray.exists()
    done = atoll.Server.collect(api_url=api.url, api_key=HOME)

    assert dry.dry_run
    assert not done.dry_run
    assert dry.leftovers == done.leftovers
    [found] = done.leftovers
    assert (found.kind, found.name) == ("checkpoint", "stray")
    assert found.size_bytes == done.size_bytes >= 5000
    assert not stray.exists()
    assert atoll.Server.collect(api_url=api.url, api_key=HOME).leftovers == ()


def test_only_the_homes_own_key_may(api: LiveApi, stray: Path) -> None:
    with pytest.raises(atoll.PermissionDeniedError):
        atoll.Server.collect(api_url=api.url, api_key=KEY)

    # A wish that is not understood removes nothing.
    for wrong in ({"dry": True}, {"dry_run": "no"}, {"dry_run": 0}, {"dry_run": None}):
        answer = httpx.post(
            f"{api.url}/v1/collections", json=wrong, headers={"Authorization": f"Bearer {HOME}"}
        )
        assert answer.status_code == 400, wrong
    assert stray.exists()


def test_the_command_line_says_what_was_freed(api: LiveApi, stray: Path) -> None:
    env = {**os.environ, "ATOLL_API_URL": api.url, "ATOLL_API_KEY": HOME, "COLUMNS": "200"}

    def run(*words: str) -> tuple[str, str]:
        done = subprocess.run([ATOLL, "gc", *words], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    shown, said = run("--dry-run")
    assert shown.splitlines()[1].split()[:2] == ["checkpoint", "stray"]
    assert "would be free" in said
    assert stray.exists()
    found = json.loads(run("--json")[0])

    assert [one["name"] for one in found["leftovers"]] == ["stray"]
    assert found["size_bytes"] >= 5000
    assert found["problems"] == []
    assert not stray.exists()
