"""Waiting for a sandbox, but not for ever."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar

from atoll.server.domain.errors import DeadlineExceededError

T = TypeVar("T")


async def within(time: timedelta, what: str, work: Awaitable[T]) -> T:
    """
    Wait so long for something that a sandbox is to do.

    Raises:
        DeadlineExceededError: it took longer.
    """
    try:
        async with asyncio.timeout(time.total_seconds()):
            return await work
    except TimeoutError as error:
        raise DeadlineExceededError(
            f"The sandbox did not {what} within {time.total_seconds():g} s",
            resolution="The machine may be overloaded; try again later.",
        ) from error
