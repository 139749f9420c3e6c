"""Removals behind: tried until it is done, and out of the way of whoever wants the sandbox."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.runtimes.leaving import Leaving

ONE = new_sandbox_id()
NEVER = 1e6


class Remains:
    """What is to be removed, and would not go so many times."""

    def __init__(self) -> None:
        self.failures = 0
        self.tries = 0
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.tried = asyncio.Condition()

    async def remove(self, _: SandboxId) -> None:
        self.tries += 1
        async with self.tried:
            self.tried.notify_all()
        await self.may_go.wait()
        if self.tries <= self.failures:
            raise UnavailableError("busy")

    async def reached(self, tries: int) -> None:
        async with self.tried:
            await self.tried.wait_for(lambda: self.tries >= tries)


@pytest.fixture
def remains() -> Remains:
    return Remains()


@pytest.fixture
async def made(remains: Remains) -> AsyncIterator[Callable[[float], Leaving]]:
    all_made: list[Leaving] = []

    def make(again_s: float) -> Leaving:
        all_made.append(Leaving(remains.remove, again_s=again_s))
        return all_made[-1]

    yield make
    for leaving in all_made:
        await leaving.close()


async def test_what_would_not_go_is_tried_until_it_does(
    remains: Remains, made: Callable[[float], Leaving]
) -> None:
    remains.failures = 3
    leaving = made(0.001)

    leaving.begin(ONE)
    await remains.reached(4)
    await leaving.close()

    assert remains.tries == 4


async def test_who_wants_the_sandbox_has_it_removed_at_once_and_nobody_else_tries(
    remains: Remains, made: Callable[[float], Leaving]
) -> None:
    remains.failures = 1
    leaving = made(NEVER)
    leaving.begin(ONE)
    await remains.reached(1)

    await leaving.now(ONE, remains.remove)
    await leaving.close()

    assert remains.tries == 2


async def test_what_does_not_go_for_who_waits_is_tried_again_behind_them(
    remains: Remains, made: Callable[[float], Leaving]
) -> None:
    remains.failures = 2
    leaving = made(0.001)

    with pytest.raises(UnavailableError, match="busy"):
        await leaving.now(ONE, remains.remove)

    await remains.reached(3)


async def test_who_goes_away_while_waiting_leaves_it_to_be_tried_again(
    remains: Remains, made: Callable[[float], Leaving]
) -> None:
    remains.failures = 1
    remains.may_go.clear()
    leaving = made(0.001)
    leaving.begin(ONE)
    await remains.reached(1)
    waiting = asyncio.ensure_future(leaving.now(ONE, remains.remove))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    remains.may_go.set()

    await remains.reached(2)


async def test_closing_waits_for_a_try_but_not_for_the_next(
    remains: Remains, made: Callable[[float], Leaving]
) -> None:
    remains.failures = 1
    leaving = made(NEVER)

    leaving.begin(ONE)
    await leaving.close()

    assert remains.tries == 1
