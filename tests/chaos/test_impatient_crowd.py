"""
The server is killed while impatient clients create and leave, kill, stream and send rubbish.

What was answered holds, and of what was not there is nothing left that a listing does not show.
The seed is printed; `ATOLL_CHAOS_SEED` repeats a run.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from e2b import Sandbox
from support.door import Door, is_answered
from support.home import LiveHome, fresh_home

# Rounds of killing; the many are for who has time.
FEW, MANY = 1, 6


def leaves(door: Door, chance: random.Random) -> None:
    """Ask for a sandbox, and leave before the answer."""
    with door.connect() as caller:
        caller.sendall(door.create(timeout=900))
        limit = time.monotonic() + chance.uniform(0, 0.3)
        while time.monotonic() < limit and not is_answered(caller):
            time.sleep(0.01)


def babbles(door: Door, chance: random.Random) -> None:
    """Send a piece of a request."""
    with door.connect() as caller:
        request = door.create()
        caller.sendall(request[: chance.randrange(len(request))] + chance.randbytes(50))


def lists(door: Door, chance: random.Random) -> None:
    """Read the list, or not."""
    with door.connect() as caller:
        caller.sendall(door.request("GET", "/v2/sandboxes") * 5)
        if chance.random() < 0.5:
            caller.recv(65536)


@contextmanager
def crowd(door: Door, seed: int, habits: list[Callable[[Door, random.Random], None]]) -> Iterator[None]:
    stop = threading.Event()

    def live(habit: Callable[[Door, random.Random], None], chance: random.Random) -> None:
        while not stop.is_set():
            with suppress(OSError):  # the server may be away
                habit(door, chance)
            time.sleep(chance.uniform(0, 0.05))

    threads = [
        threading.Thread(target=live, args=(habit, random.Random(seed + number)))
        for number, habit in enumerate(habits)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)


def left_by_runtime(home: LiveHome) -> set[str]:
    """Find whose processes run."""
    words = {word for line in home.sandbox_processes() for word in line.split()}
    return {word.rpartition("/")[2] for word in words if word.rpartition("/")[2].startswith("i")}


@pytest.mark.parametrize("rounds", [FEW, pytest.param(MANY, marks=pytest.mark.heavy)])
def test_impatient_clients_and_a_dying_server_leave_nothing_unseen(
    record_property: Callable[[str, object], None], rounds: int
) -> None:
    seed = int(os.environ.get("ATOLL_CHAOS_SEED") or random.randrange(1 << 32))
    record_property("seed", seed)
    sys.stdout.write(f"ATOLL_CHAOS_SEED={seed}\n")
    chance = random.Random(seed)
    with fresh_home() as home:
        options: dict[str, Any] = home.client_options
        door = Door.of(options)
        kept = Sandbox.create("minimal", timeout=900, **options)
        lines: list[str] = []
        lines_wanted = 150 * rounds
        handle = kept.commands.run(
            f"for i in $(seq {lines_wanted}); do echo $i; sleep 0.02; done", background=True, timeout=0
        )
        reader = threading.Thread(target=lambda: handle.wait(on_stdout=lines.append))
        reader.start()

        with crowd(door, seed, [leaves, leaves, leaves, babbles, lists]):
            for _ in range(rounds):
                time.sleep(chance.uniform(0.5, 2))
                os.kill(home.server_pid(), signal.SIGKILL)
                home.start()
            time.sleep(1)
        reader.join(timeout=60)

        # The stream went past all that.
        assert "".join(lines) == "".join(f"{number}\n" for number in range(1, lines_wanted + 1))
        running = home.settled_running()
        assert kept.sandbox_id in running
        # Some were answered in the moment in which their client left; no more than a handful.
        assert len(running) < 15
        assert left_by_runtime(home) <= running
        for sandbox_id in running:
            Sandbox.kill(sandbox_id, **options)
        assert home.settled_running() == set()
        assert home.sandbox_processes() == []
