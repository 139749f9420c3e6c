"""Slots that are released at once go at once, and one that does not go keeps no other."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection

import pytest

from atoll.server.domain.errors import UnavailableError
from atoll.server.network.making import SlotMaker
from atoll.server.network.removing import MOST_AT_ONCE, SlotRemover
from atoll.server.network.workers import Worker


class Kernel(SlotMaker):
    """Stands still until it may go on, and refuses some numbers."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.began = threading.Event()
        self.stuck: set[int] = set()
        self.steps: list[list[int]] = []

    def remove_all(self, numbers: Collection[int]) -> None:
        self.began.set()
        assert self.may_go_on.wait(10)
        self.steps.append(sorted(numbers))
        if refused := self.stuck & set(numbers):
            raise UnavailableError(f"busy: {refused}")


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker("test-removing")
    yield worker
    worker.close()


async def all_of(
    remover: SlotRemover, kernel: Kernel, numbers: Collection[int]
) -> list[BaseException | None]:
    """Ask for the first, and for the others while the kernel is busy with it."""
    first, *rest = [asyncio.ensure_future(remover.remove(number)) for number in numbers]
    await asyncio.to_thread(kernel.began.wait, 10)
    kernel.may_go_on.set()
    async with asyncio.timeout(10):
        return await asyncio.gather(first, *rest, return_exceptions=True)


async def test_what_is_asked_for_together_goes_in_one_step(worker: Worker) -> None:
    kernel = Kernel()
    kernel.may_go_on.set()
    remover = SlotRemover(kernel, worker)

    outcomes = await asyncio.gather(*(remover.remove(number) for number in range(8)))

    assert outcomes == [None] * 8
    assert sorted(number for step in kernel.steps for number in step) == list(range(8))
    assert len(kernel.steps) < 8


async def test_no_step_is_longer_than_its_bound_and_none_is_left_out(worker: Worker) -> None:
    kernel = Kernel()
    numbers = range(3 * MOST_AT_ONCE)

    outcomes = await all_of(SlotRemover(kernel, worker), kernel, numbers)

    assert outcomes == [None] * len(numbers)
    assert sorted(number for step in kernel.steps for number in step) == list(numbers)
    assert max(len(step) for step in kernel.steps) <= MOST_AT_ONCE
    assert len(kernel.steps) <= 4


async def test_one_that_does_not_go_keeps_no_other_and_may_be_tried_again(worker: Worker) -> None:
    kernel = Kernel()
    kernel.stuck = {3}
    remover = SlotRemover(kernel, worker)

    outcomes = await all_of(remover, kernel, range(6))

    failed = [number for number, outcome in enumerate(outcomes) if outcome is not None]
    assert failed == [3]
    assert isinstance(outcomes[3], UnavailableError)
    kernel.stuck = set()
    await remover.remove(3)


async def test_a_caller_who_leaves_is_served_all_the_same(worker: Worker) -> None:
    kernel = Kernel()
    remover = SlotRemover(kernel, worker)
    first = asyncio.ensure_future(remover.remove(1))
    leaving = asyncio.ensure_future(remover.remove(2))
    await asyncio.to_thread(kernel.began.wait, 10)

    leaving.cancel()
    kernel.may_go_on.set()
    await first
    await remover.remove(3)

    assert {number for step in kernel.steps for number in step} == {1, 2, 3}


async def test_two_who_ask_for_the_same_both_hear_of_its_end(worker: Worker) -> None:
    kernel = Kernel()
    kernel.stuck = {1}

    outcomes = await all_of(SlotRemover(kernel, worker), kernel, [0, 1, 1])

    assert outcomes[0] is None
    assert all(isinstance(outcome, UnavailableError) for outcome in outcomes[1:])
