"""Threads for blocking kernel calls: one thread each, so calls of one worker take turns, in order."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from atoll.server.domain.errors import InternalError, UnavailableError
from atoll.server.host.netns import LostThreadError

P = ParamSpec("P")
T = TypeVar("T")

# Each call takes milliseconds. Some hundred may wait in front of it, when a full host is emptied.
_TIMEOUT_S = 30.0


class Worker:
    """One thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._executor = self._new()

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run a call in the thread, after all that were asked for before.

        A caller who is cancelled does not stop the call: it is made, and its outcome dropped.

        Raises:
            UnavailableError: it did not end in time; it may still be made later.
        """
        work = asyncio.get_running_loop().run_in_executor(
            self._executor, functools.partial(call, *args, **kwargs)
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                # Shielded, or else cancelling would take a call out of the queue that was promised.
                return await asyncio.shield(work)
        except TimeoutError as error:
            raise UnavailableError(
                "The kernel did not finish a network call in time", details=f"{_TIMEOUT_S} s, {self._name}"
            ) from error
        except LostThreadError as error:
            # That thread is in a sandbox's namespace for good; what waits behind is refused with it.
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = self._new()
            raise InternalError("A thread was lost in a network namespace", details=str(error)) from error
        finally:
            work.add_done_callback(_look_at)

    def close(self) -> None:
        """End the thread, when it has done what it was asked for."""
        self._executor.shutdown(wait=True)

    def _new(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)


def _look_at(work: "asyncio.Future[T]") -> None:
    # So that asyncio does not complain that nobody looked at the error of a call whose caller went away.
    if not work.cancelled():
        work.exception()
