"""
Doing again what has to be done in the end, whatever was in the way: a full disk, say.

How long to wait before the next try is said here for all of control; what has a schedule of its own
(deliveries, removals, comebacks) says so where it is.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    stop_never,
    wait_exponential,
)

from atoll.server.domain.errors import NotFoundError
from atoll.server.ports.clock import Clock

log = structlog.get_logger(__name__)

# After rows could not be read or written, wait so long before the next try.
RETRY_DELAY = timedelta(seconds=1)
# It doubles where tries follow each other, up to this: whoever made room is not kept waiting for long.
_LONGEST_DELAY = timedelta(seconds=30)

T = TypeVar("T")


async def rest(clock: Clock) -> None:
    """Wait before the next try."""
    await clock.sleep_until(clock.now() + RETRY_DELAY)


async def tried(clock: Clock, what: str, work: Callable[[], Awaitable[T]], *, times: int | None = None) -> T:
    """
    Do something that may be repeated until it is done; what is not there any more needs nothing done.

    Args:
        clock: the time.
        what: for the log.
        work: called anew for each try.
        times: tries at most, at least one; None: for ever.

    Raises:
        NotFoundError: at once.
        Exception: that of the last try.
    """

    # tenacity awaits what it sees to be a coroutine's function, which a lambda is not.
    async def once() -> T:
        return await work()

    async def sleep(seconds: float) -> None:
        await clock.sleep_until(clock.now() + timedelta(seconds=seconds))

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        log.warning("not done yet", what=what, attempt=state.attempt_number, error=str(error) or repr(error))

    tries = AsyncRetrying(
        sleep=sleep,
        stop=stop_never if times is None else stop_after_attempt(max(times, 1)),
        wait=wait_exponential(multiplier=RETRY_DELAY.total_seconds(), max=_LONGEST_DELAY.total_seconds()),
        # Whatever it was: nothing is left half done because of a surprise.
        retry=retry_if_exception_type(Exception) & retry_if_not_exception_type(NotFoundError),
        before_sleep=say,
        reraise=True,
    )
    return await tries(once)
