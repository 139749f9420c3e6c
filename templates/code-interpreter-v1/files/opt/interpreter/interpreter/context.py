"""A context: a language, a directory, a kernel that is replaced when it ends, and one execution at a time."""

import asyncio
import logging
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress

from interpreter import generation, items, limits
from interpreter.kernel import Kernel, KernelEndedError
from interpreter.languages import Language
from interpreter.request import Request
from interpreter.run import Run

log = logging.getLogger(__name__)


class KernelStuckError(Exception):
    """The kernel did not do in time what goes with an execution; the text says what."""


class Context:
    """Runs code in one language, in one directory."""

    def __init__(self, language: Language, cwd: str) -> None:
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        # None until the first cell, or `start`.
        self._kernel: Kernel | None = None
        self._tried = False
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._removed = False
        # How a kernel ended of whose end nobody has heard: its client had left.
        self._untold = ""
        # Of the sandbox, when the kernel's random numbers began.
        self._generation = ""

    def describe(self) -> dict[str, str]:
        """Return what clients see."""
        return {"id": self.id, "language": self.language.name, "cwd": self.cwd}

    async def start(self) -> None:
        """
        Start the kernel.

        Raises:
            KernelEndedError: it does not start.
        """
        async with self._lock:
            await self._renew()

    async def restart(self) -> None:
        """End the kernel at once, whatever it does, and start another. What runs in it ends with an error."""
        if self._kernel is not None:
            await self._kernel.kill()
        await self.start()

    async def remove(self) -> None:
        """End the kernel for good."""
        self._removed = True
        if self._kernel is not None:
            await self._kernel.kill()

    async def _renew(self) -> Kernel:
        if self._removed:
            raise KernelEndedError("the context was removed")
        if self._kernel is not None:
            await self._kernel.kill()
        self._kernel = None
        self._tried = True
        kernel = Kernel(self.language, self.cwd)
        await kernel.start()
        self._kernel = kernel
        self._generation = generation.current()
        return kernel

    def run(self, code: str, env: Mapping[str, str]) -> Run:
        """Run code after all that was asked before; what it does with its client gone is ``Run.given_up``."""
        run = Run()
        task = asyncio.ensure_future(self._run(run, code, env))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _run(self, run: Run, code: str, env: Mapping[str, str]) -> None:
        try:
            async with self._lock:
                if not run.given_up.is_set():
                    await self._execute(run, code, env)
        except KernelEndedError as problem:
            run.put(items.error("KernelNotStarted", f"The kernel does not start: {problem}"))
        except KernelStuckError as problem:
            run.put(items.error("KernelStuck", str(problem)))
        except Exception as problem:
            # Without an error, it would seem to have succeeded.
            log.exception("an execution failed")
            run.put(items.error("ExecutionFailed", f"The interpreter failed to run the code: {problem!r}"))
        finally:
            run.over = True
            run.put(items.END)

    async def _execute(self, run: Run, code: str, env: Mapping[str, str]) -> None:
        kernel = await self._ready(run)
        try:
            await self._reseed(kernel)
            if env:
                await self._set(kernel, env)
            await self._forward(kernel, run, code)
            if env:
                await self._unset(kernel, env)
        except KernelEndedError:
            if run.given_up.is_set():
                self._untold = kernel.how
            run.put(items.error("KernelEnded", await self._replace(kernel)))

    async def _replace(self, ended: Kernel) -> str:
        """Have another kernel in place of one that ended, and return what there is to tell of it."""
        how = ended.how
        try:
            await self._renew()
        except KernelEndedError as problem:
            return f"The kernel ended ({how}), and does not start again: {problem}"
        return f"The kernel ended ({how}) and was restarted: what it had in memory is gone."

    async def _ready(self, run: Run) -> Kernel:
        """Return a kernel that runs, and tell the client if it is another one than last time."""
        kernel = self._kernel
        if kernel is None or kernel.ended.is_set():
            if self._tried:
                self._untold = kernel.how if kernel is not None else "it did not start"
            kernel = await self._renew()
        if self._untold:
            told = (
                f"The kernel had ended ({self._untold}) and was restarted: what it had in memory is gone.\n"
            )
            self._untold = ""
            run.put(items.output("stderr", told))
        return kernel

    async def _reseed(self, kernel: Kernel) -> None:
        """Have a kernel that was restored draw other random numbers than its twins."""
        now = generation.current()
        if now != self._generation and self.language.reseed:
            await self._silently(
                kernel, self.language.reseed, "draw new random numbers, so the code was not run"
            )
        self._generation = now

    async def _set(self, kernel: Kernel, env: Mapping[str, str]) -> None:
        setting = self.language.environment(env)
        try:
            await self._silently(kernel, setting, "set the variables, so the code was not run")
        except KernelStuckError as problem:
            # It has set those before the one that it was stuck with: the next cells are not to see them.
            try:
                await self._unset(kernel, env)
            except KernelStuckError as another:
                raise KernelStuckError(f"{problem} {another}") from None
            raise

    async def _unset(self, kernel: Kernel, env: Mapping[str, str]) -> None:
        before = {key: os.environ.get(key) for key in env}
        await self._silently(
            kernel, self.language.environment(before), "unset the variables of this execution"
        )

    async def _silently(self, kernel: Kernel, code: str, what: str) -> None:
        """Run code of ours; *what* it does is told where it is interrupted, or the kernel ended for it."""
        request = kernel.execute(code, items.drop, silent=True)
        done = asyncio.ensure_future(kernel.done(request))
        try:
            await asyncio.wait({done}, timeout=limits.INTERRUPT_S)
            in_time = done.done()
            if not in_time:
                await self._stop(kernel, request, done)
            await done
        finally:
            done.cancel()
        if not in_time:
            raise KernelStuckError(f"Within {limits.INTERRUPT_S:g} s the kernel did not {what}.")

    async def _forward(self, kernel: Kernel, run: Run, code: str) -> None:
        request = kernel.execute(code, run.put)
        done = asyncio.ensure_future(kernel.done(request))
        gone = asyncio.ensure_future(run.given_up.wait())
        flooded = asyncio.ensure_future(request.flooded.wait())
        try:
            await asyncio.wait({done, gone, flooded}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                await self._stop(kernel, request, done)
            with suppress(KernelEndedError):
                await done
            # A client that is slow holds up the next execution: no more waits for it than one puts out.
            await run.taken()
            if done.exception() is not None:
                raise KernelEndedError(kernel.how)
        finally:
            for task in (done, gone, flooded):
                task.cancel()

    async def _stop(self, kernel: Kernel, request: Request, done: "asyncio.Future[None]") -> None:
        """End what a kernel does whose client left, that puts out too much, or that takes too long."""
        request.abandoned = True
        await kernel.interrupt()
        await asyncio.wait({done}, timeout=limits.INTERRUPT_S)
        if not done.done():
            await kernel.kill()
