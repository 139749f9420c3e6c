"""Blocking calls in a thread, from asyncio."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finish_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Call something that blocks; when cancelled, wait for its end before giving way.

    A thread cannot be stopped: with asyncio.to_thread alone it would still be at work behind the back of
    whoever cleans up after the cancelled call.
    """
    done = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise
