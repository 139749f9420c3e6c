"""Blocking calls beside the event loop, and two things at once."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


async def finish_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Call something that blocks; when cancelled, wait for its end before giving way.

    A thread cannot be stopped: with asyncio.to_thread alone it would still be at work behind the back of
    whoever cleans up after the cancelled call.
    """
    return await finish(asyncio.to_thread(work, *args, **kwargs))


async def stop_in_thread(work: Callable[[Callable[[], bool]], T]) -> T:
    """
    Call something that blocks, and asks now and then whether it is to stop; it is when this is cancelled.

    Gives way after its end, as ``finish_in_thread`` does.
    """
    stopped = threading.Event()
    done = asyncio.ensure_future(asyncio.to_thread(work, stopped.is_set))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([done])
        raise


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Do something to its end, also when this is cancelled: then it gives way after that."""
    done = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


async def both(one: Awaitable[T], other: Awaitable[U]) -> tuple[T, U]:
    """
    Do two things at once; return when both have ended, whatever happened.

    Raises:
        Exception: what one of them raised, the first one's before the other's. Neither is stopped by the
            other's failure; both are when this is cancelled.
    """
    done = await asyncio.gather(one, other, return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
    return done  # type: ignore[return-value]  # checked above
