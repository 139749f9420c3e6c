"""`atoll gc` on a home that is used: what nobody needs goes, and what is needed works afterwards."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from support.home import LiveHome, fresh_home

from atoll import Sandbox, Snapshot

# The server must not be quicker than the test.
SETTINGS = """
[storage]
collect_every = "1d"
sweep_every = "1d"
pack_after = "0s"
"""


@pytest.fixture(scope="module")
def own() -> Iterator[LiveHome]:
    with fresh_home(SETTINGS) as home:
        yield home


@pytest.fixture(scope="module")
def options(own: LiveHome) -> dict[str, Any]:
    return own.options


def collect(own: LiveHome, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    for name, value in own.exports.items():
        monkeypatch.setenv(name, value)
    done = own.atoll("gc", "--json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def left(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(one["kind"], one["name"]) for one in found["leftovers"] if one["kind"] != "runs"}


def test_what_nobody_needs_goes_and_what_is_needed_stays(
    own: LiveHome, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, guestds = own.path / "checkpoints", own.path / "guestd"
    with (
        Sandbox.create("minimal", timeout=600, **options) as paused,
        Sandbox.create("minimal", timeout=600, **options) as running,
    ):
        for one in (paused, running):
            one.files.write("/home/user/held", one.id)
        snapshot = running.snapshot()
        paused.pause()
        assert collect(own, monkeypatch, "--dry-run")["leftovers"] == []
        # As servers left them that were killed, and earlier versions of Atoll.
        (checkpoints / f"{running.id}-7").mkdir()
        (checkpoints / f"{running.id}-7" / "image").write_bytes(os.urandom(100_000))
        (checkpoints / ".half-gone").mkdir()
        (guestds / ("0" * 64)).write_bytes(b"old")
        expected = {
            ("checkpoint", f"{running.id}-7"),
            ("half-written", ".half-gone"),
            ("guestd", "0" * 64),
        }

        looked = collect(own, monkeypatch, "--dry-run")
        assert left(looked) == expected
        assert looked["dry_run"]
        assert looked["size_bytes"] > 100_000
        assert (checkpoints / f"{running.id}-7").exists()

        assert left(collect(own, monkeypatch)) == expected
        assert collect(own, monkeypatch)["leftovers"] == []
        assert not (guestds / ("0" * 64)).exists()

        paused.resume()
        for one in (paused, running):
            assert one.files.read("/home/user/held") == one.id
        with Sandbox.create(snapshot.id, timeout=300, **options) as child:
            assert child.files.read("/home/user/held") == running.id
    Snapshot.delete(snapshot.id, **options)
