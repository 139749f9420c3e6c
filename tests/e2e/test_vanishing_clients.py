"""Clients that leave before the answer, against a real home: nothing that nobody knows of is left."""

import time
from typing import Any

import pytest
from e2b import Sandbox
from e2b.sandbox.sandbox_api import SandboxQuery
from support.door import Door, is_answered
from support.home import LiveHome


def listed(whose: str, options: dict[str, Any]) -> list[str]:
    pages = Sandbox.list(query=SandboxQuery(metadata={"whose": whose}), **options)
    return [item.sandbox_id for item in pages.next_items()]


def test_creates_whose_clients_vanish_leave_nothing(home: LiveHome, client_options: dict[str, Any]) -> None:
    door = Door.of(client_options)
    before = home.settled_running()
    answered = 0

    for delay in (0, 0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2):
        with door.connect() as caller:
            caller.sendall(door.create(metadata={"whose": "nobody's"}))
            time.sleep(delay)
            answered += is_answered(caller)

    after = home.settled_running()
    assert len(after - before) == answered
    assert sorted(listed("nobody's", client_options)) == sorted(after - before)
    for sandbox_id in after - before:
        Sandbox.kill(sandbox_id, **client_options)
    assert answered < 4, "creates are faster now: shorten the delays"
    assert {path.name for path in (home.path / "sandboxes").glob("i*")} == before
    known = [word for line in home.sandbox_processes() for word in line.split()]
    assert not any(sandbox_id in word for word in known for sandbox_id in after - before)


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
