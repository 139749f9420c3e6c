"""Clients that leave before the answer, against a real home: nothing that nobody knows of is left."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from e2b import Sandbox
from e2b.sandbox.sandbox_api import SandboxQuery
from support.door import Door, is_answered
from support.home import LiveHome, fresh_home


@pytest.fixture(scope="module")
def home() -> Iterator[LiveHome]:
    """One in which no machine waits: a claim is answered before anybody can leave."""
    with fresh_home() as made:
        yield made


@pytest.fixture(scope="module")
def client_options(home: LiveHome) -> dict[str, Any]:
    return home.client_options


def listed(whose: str, options: dict[str, Any]) -> list[str]:
    pages = Sandbox.list(query=SandboxQuery(metadata={"whose": whose}), **options)
    return [item.sandbox_id for item in pages.next_items()]


def test_creates_whose_clients_vanish_leave_nothing(home: LiveHome, client_options: dict[str, Any]) -> None:
    door = Door.of(client_options)
    before = home.settled_running()

    # All of them shorter than a create: an answer that is on its way cannot be called back.
    for delay in (0, 0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.06):
        with door.connect() as caller:
            caller.sendall(door.create(metadata={"whose": "nobody's"}))
            time.sleep(delay)
            assert not is_answered(caller), "creates are faster now: shorten the delays"

    assert home.settled_running() == before
    assert listed("nobody's", client_options) == []
    assert {path.name for path in (home.path / "sandboxes").glob("i*")} == before


@pytest.mark.parametrize("times", [20])
def test_a_crowd_that_vanishes_at_once_leaves_nothing(
    home: LiveHome, client_options: dict[str, Any], times: int
) -> None:
    door = Door.of(client_options)
    before = home.settled_running()

    callers = [door.connect() for _ in range(times)]
    for caller in callers:
        caller.sendall(door.create(metadata={"whose": "the crowd's"}))
    for caller in callers:
        caller.close()

    assert home.settled_running() == before
    # The machine serves the next one at once: nobody queues behind those who left.
    started = time.monotonic()
    Sandbox.create("minimal", timeout=60, **client_options).kill()
    assert time.monotonic() - started < 20
