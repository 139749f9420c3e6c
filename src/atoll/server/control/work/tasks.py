"""
Owns every task of control.

Work for a caller (a create, a kill) is a ``Job``: it fails for those who wait for it, and goes on
when they go away. Work for nobody (the reaper) must not fail: its error ends the server.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from atoll.server.domain.errors import AtollError, UnavailableError

T = TypeVar("T")


class Job(Generic[T]):
    """Work under way; any number may wait for its outcome."""

    def __init__(self) -> None:
        self._outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._outcome.add_done_callback(retrieve)
        self._task: asyncio.Task[None] | None = None
        self._stopped_for: AtollError | None = None

    @property
    def outcome(self) -> asyncio.Future[T]:
        """Its outcome, to be waited for beside others; never to be cancelled."""
        return self._outcome

    @property
    def done(self) -> bool:
        """Whether it has an outcome."""
        return self._outcome.done()

    def succeeded(self) -> bool:
        """Whether it has a result."""
        return self.done and not self._outcome.cancelled() and self._outcome.exception() is None

    def cancel(self, error: AtollError | None = None) -> None:
        """
        Ask it to stop; it may take time to clean up.

        Args:
            error: for those who wait; default: that the server stops.
        """
        if self._task is not None:
            self._stopped_for = self._stopped_for or error
            self._task.cancel()

    async def wait(self) -> T:
        """
        Return its result, or raise its error; being cancelled while waiting does not stop it.

        Raises:
            UnavailableError: it was cancelled, because the server stops.
            AtollError: it failed, or was stopped for this.
        """
        try:
            return await asyncio.shield(self._outcome)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._outcome.cancelled() and task is not None and not task.cancelling():
                raise UnavailableError("The server is stopping") from None
            raise

    async def _run(self, work: Callable[[], Awaitable[T]]) -> None:
        try:
            result = await work()
        except Exception as error:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(result)

    def _ended(self, _: asyncio.Task[None]) -> None:
        # Cancelled, perhaps before its first step.
        if self._outcome.done():
            return
        if self._stopped_for is not None:
            self._outcome.set_exception(self._stopped_for)
        else:
            self._outcome.cancel()


def retrieve(future: asyncio.Future[Any]) -> None:
    """Look at a future's error, so that asyncio does not complain that nobody did."""
    if not future.cancelled():
        future.exception()


class Tasks:
    """A task group that is opened and closed rather than entered and left, by one and the same task."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs: set[Job[Any]] = set()

    @property
    def jobs(self) -> tuple[Job[Any], ...]:
        """The jobs that have no outcome yet."""
        return tuple(job for job in self._jobs if not job.done)

    async def open(self) -> None:
        """Begin."""
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()

    async def close(self) -> None:
        """
        Cancel what is under way and wait for its end.

        Raises:
            BaseExceptionGroup: work for nobody failed.
        """
        group, self._group = self._group, None
        if group is not None:
            for task in self._tasks:
                task.cancel()
            await group.__aexit__(None, None, None)

    def run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Start work for nobody; its error cancels the task that opened this."""
        return self._start(name, work())

    def job(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> Job[T]:
        """
        Start work that somebody may wait for.

        Raises:
            UnavailableError: closed.
        """
        if self._group is None:
            raise UnavailableError("The server is stopping")
        job: Job[T] = Job()
        job._task = self._start(name, job._run(work))  # noqa: SLF001  a Job is made here only
        job._task.add_done_callback(job._ended)  # noqa: SLF001
        self._jobs.add(job)
        job.outcome.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._group is not None, "not open"
        try:
            task = self._group.create_task(work, name=name)
        except RuntimeError:
            # Other work failed, and the group is ending.
            work.close()
            raise UnavailableError("The server is stopping") from None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
