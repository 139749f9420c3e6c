"""Locks between processes: who waits gives up on one that holds for too long, not on many that take turns."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from atoll.server.host.locked_file import LockTimeoutError, locked

HELD_S = 0.1


def test_who_waits_for_many_that_take_turns_does_not_give_up(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    # Shorter than all turns together, longer than one.
    turns, timeout_s = 12, HELD_S * 6
    got: list[float] = []

    def take() -> None:
        with locked(path, timeout_s=timeout_s):
            got.append(time.monotonic())
            time.sleep(HELD_S)

    start = time.monotonic()
    takers = [threading.Thread(target=take) for _ in range(turns)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()

    assert len(got) == turns
    assert got[-1] - start > timeout_s


def test_who_waits_for_one_that_holds_for_ever_gives_up(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError, match=str(path)), locked(path, timeout_s=0.05):
            pass
    finally:
        os.close(fd)


def test_a_lock_whose_last_holder_was_long_ago_is_waited_for_in_full(tmp_path: Path) -> None:
    """What changed before the wait is no progress of those that hold now."""
    path = tmp_path / "lock"
    with locked(path):
        pass
    os.utime(path, (0, 0))
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(path):
            held.set()
            let_go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    start = time.monotonic()
    with pytest.raises(LockTimeoutError), locked(path, timeout_s=0.1):
        pass
    waited = time.monotonic() - start
    let_go.set()
    holder.join()

    assert waited >= 0.1
