"""
Removes what is left of machines, behind whoever needs nothing more of them.

All of a machine that a checkpoint ended is on the disk and none of its programs runs, so nobody has to wait
until the kernel has its memory back: 0.1 s for 512 MB. Who wants to do anything else with the same sandbox
does wait. What would not go is tried again for as long as it takes: a paused sandbox may rest for weeks, and
its machine would hold its memory all the while.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_exponential,
)

from atoll.server.domain.errors import AtollError
from atoll.server.domain.ids import SandboxId

log = structlog.get_logger(__name__)

# The first pause after what would not go, and the longest: it doubles in between.
AGAIN_S, AGAIN_MOST_S = 1.0, 60.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Removal:
    task: asyncio.Future[None]
    # Set while somebody waits for its end: it is not tried again then.
    last: asyncio.Event


class Leaving:
    """Owns those removals, one for each sandbox at most."""

    def __init__(self, remove: Callable[[SandboxId], Awaitable[None]], *, again_s: float = AGAIN_S) -> None:
        """
        Args:
            remove: removes all of a machine but its slot; takes an end, if it cannot.
            again_s: the first pause after that, in seconds.
        """
        self._remove = remove
        self._again_s = again_s
        self._removals: dict[SandboxId, _Removal] = {}

    def begin(self, sandbox_id: SandboxId) -> None:
        """Remove what is left of a sandbox's machine, as often as it takes; a no-op while that goes on."""
        self._begin(sandbox_id, rest_s=0)

    async def now(self, sandbox_id: SandboxId, remove: Callable[[SandboxId], Awaitable[None]]) -> None:
        """
        Remove it for who waits, when nothing else removes anything of that sandbox any more.

        What would not go is tried again behind them, until this is called once more.

        Args:
            sandbox_id: whose.
            remove: does it.

        Raises:
            AtollError: something would not go.
        """
        try:
            await self._stop(sandbox_id)
            await remove(sandbox_id)
        except (Exception, asyncio.CancelledError):
            self._begin(sandbox_id, rest_s=self._again_s)
            raise

    async def close(self) -> None:
        """Wait for those that go on; what would not go is left to the next server."""
        await asyncio.gather(*(self._stop(sandbox_id) for sandbox_id in list(self._removals)))

    def _begin(self, sandbox_id: SandboxId, *, rest_s: float) -> None:
        removal = self._removals.get(sandbox_id)
        if removal is not None and not removal.task.done():
            # Who waited for its end has gone away.
            removal.last.clear()
            return
        last = asyncio.Event()
        task = asyncio.ensure_future(self._run(sandbox_id, last, rest_s))
        self._removals[sandbox_id] = begun = _Removal(task=task, last=last)

        def over(_: object) -> None:
            if self._removals.get(sandbox_id) is begun:
                del self._removals[sandbox_id]

        task.add_done_callback(over)

    async def _stop(self, sandbox_id: SandboxId) -> None:
        removal = self._removals.get(sandbox_id)
        if removal is not None:
            removal.last.set()
            await asyncio.wait([removal.task])

    async def _run(self, sandbox_id: SandboxId, last: asyncio.Event, rest_s: float) -> None:
        async def once() -> None:
            # Who waits does it, once this is over.
            if not last.is_set():
                await self._remove(sandbox_id)

        async def rest(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await last.wait()

        def say(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            log.warning(
                "remains of a machine not removed",
                sandbox_id=sandbox_id,
                error=str(error) or repr(error),
                again_in_s=state.upcoming_sleep,
                exc_info=None if isinstance(error, AtollError) else error,
            )

        tries = AsyncRetrying(
            sleep=rest,
            # Whoever waits hears of it themselves.
            stop=lambda _: last.is_set(),
            retry_error_callback=lambda _: None,
            wait=wait_exponential(multiplier=self._again_s, max=AGAIN_MOST_S),
            # Whatever it was: no memory is held for ever because of a surprise.
            retry=retry_if_exception_type(Exception),
            before_sleep=say,
        )
        if rest_s:
            await rest(rest_s)
        await tries(once)
