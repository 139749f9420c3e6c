"""A restored machine that is waited for until it answers, or is gone."""

import asyncio
import socket

import pytest

from atoll.server.domain.errors import UnavailableError
from atoll.server.runtimes.gvisor import serving

HERE = "127.0.0.1"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port where nobody listens yet."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        number = int(probe.getsockname()[1])
    monkeypatch.setattr(serving, "_PORT", number)
    return number


async def test_a_machine_that_ended_is_waited_for_no_longer(port: int) -> None:
    asked = 0

    def is_there() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    async with asyncio.timeout(5):
        with pytest.raises(UnavailableError, match="ended while it came back"):
            await serving.serves(HERE, is_there=is_there)

    assert asked == 3


async def test_one_that_is_there_is_waited_for_until_it_answers(port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(serving.serves(HERE, is_there=lambda: True))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        async with await asyncio.start_server(answer, HERE, port):
            await waiting
