"""The queue of what happens to machines: what finds no room is told as lost, once, and nothing else is."""

import asyncio

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import EventsLost, MachineEvent, ProcessKilledForMemory
from atoll.server.runtimes.events import EventQueue


def event(pid: int) -> ProcessKilledForMemory:
    return ProcessKilledForMemory(sandbox_id=SandboxId("s"), pid=pid, command="c", resident_bytes=1)


async def read(queue: EventQueue, number: int) -> list[MachineEvent]:
    events = queue.read()
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(number)]


async def test_events_come_in_their_order_while_there_is_room() -> None:
    queue = EventQueue(3)
    for pid in range(3):
        queue.put(event(pid))

    assert await read(queue, 3) == [event(0), event(1), event(2)]


async def test_a_loss_is_told_before_what_was_kept_and_only_once() -> None:
    queue = EventQueue(2)
    for pid in range(5):
        queue.put(event(pid))

    assert await read(queue, 3) == [EventsLost(number=3), event(0), event(1)]
    queue.put(event(9))
    assert await read(queue, 1) == [event(9)]


async def test_what_is_lost_while_the_reader_acts_is_told_next() -> None:
    queue = EventQueue(1)
    events = queue.read()
    queue.put(event(0))
    assert await anext(events) == event(0)
    queue.put(event(1))
    queue.put(event(2))

    assert [await anext(events), await anext(events)] == [EventsLost(number=1), event(1)]
