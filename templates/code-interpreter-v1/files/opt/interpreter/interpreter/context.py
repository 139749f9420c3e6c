"""A context: a language, a directory, a kernel that is replaced when it ends, and one execution at a time."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from interpreter import items, limits
from interpreter.items import Item
from interpreter.kernel import Kernel, KernelEndedError, Request
from interpreter.languages import Language


class Run:
    """An execution as its client sees it: items until the end, and a way to give it up."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Item | None] = asyncio.Queue(1)
        self.given_up = asyncio.Event()
        self.over = False

    async def put(self, item: Item | None) -> None:
        """Hand an item on; wait while the client is slow, and drop it when the client is gone."""
        if self.given_up.is_set():
            return
        putting = asyncio.ensure_future(self.items.put(item))
        gone = asyncio.ensure_future(self.given_up.wait())
        try:
            await asyncio.wait({putting, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
            gone.cancel()

    async def __aiter__(self) -> AsyncIterator[Item]:
        while True:
            try:
                async with asyncio.timeout(limits.SILENCE_S):
                    item = await self.items.get()
            except TimeoutError:
                yield items.KEEPALIVE
                continue
            if item is None:
                return
            yield item


class Context:
    """Runs code in one language, in one directory."""

    def __init__(self, language: Language, cwd: str) -> None:
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        self._kernel: Kernel | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._removed = False
        # How a kernel ended of whose end nobody has heard: its client had left.
        self._untold = ""

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
        kernel = Kernel(self.language, self.cwd)
        await kernel.start()
        self._kernel = kernel
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
            await run.put(items.error("KernelNotStarted", f"The kernel does not start: {problem}"))
        finally:
            run.over = True
            await run.put(items.END)
            await run.put(None)

    async def _execute(self, run: Run, code: str, env: Mapping[str, str]) -> None:
        kernel = await self._ready(run)
        try:
            if env:
                await self._silently(kernel, self.language.environment(env))
            await self._forward(kernel, run, code)
            if env:
                before = {key: os.environ.get(key) for key in env}
                await self._silently(kernel, self.language.environment(before))
        except KernelEndedError:
            text = f"The kernel ended ({kernel.how}) and was restarted: what it had in memory is gone."
            if run.given_up.is_set():
                self._untold = kernel.how
            await run.put(items.error("KernelEnded", text))
            await self._renew()

    async def _ready(self, run: Run) -> Kernel:
        """Return a kernel that runs, and tell the client if it is another one than last time."""
        kernel = self._kernel
        if kernel is None or kernel.ended.is_set():
            self._untold = kernel.how if kernel is not None else "it did not start"
            kernel = await self._renew()
        if self._untold:
            told = (
                f"The kernel had ended ({self._untold}) and was restarted: what it had in memory is gone.\n"
            )
            self._untold = ""
            await run.put(items.output("stderr", told))
        return kernel

    async def _silently(self, kernel: Kernel, code: str) -> None:
        request = kernel.execute(code, silent=True)
        request.abandoned = True
        async with asyncio.timeout(limits.INTERRUPT_S):
            await kernel.done(request)

    async def _forward(self, kernel: Kernel, run: Run, code: str) -> None:
        request = kernel.execute(code)
        pumping = asyncio.ensure_future(_pump(request, run))
        done = asyncio.ensure_future(kernel.done(request))
        gone = asyncio.ensure_future(run.given_up.wait())
        try:
            await asyncio.wait({pumping, done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                # The client left, or was sent all that it may be.
                await self._stop(kernel, request, done)
            with suppress(KernelEndedError):
                await done
            if not pumping.done() and not run.given_up.is_set():
                await _drained(request, pumping, gone)
            if done.exception() is not None:
                raise KernelEndedError(kernel.how)
        finally:
            for task in (pumping, done, gone):
                task.cancel()

    async def _stop(self, kernel: Kernel, request: Request, done: "asyncio.Future[None]") -> None:
        request.abandoned = True
        while not request.messages.empty():
            request.messages.get_nowait()
        await kernel.interrupt()
        await asyncio.wait({done}, timeout=limits.INTERRUPT_S)
        if not done.done():
            await kernel.kill()


async def _pump(request: Request, run: Run) -> None:
    """Translate messages for the client; return when it was sent more than it may be."""
    sent = 0
    while True:
        message = await request.messages.get()
        item = items.translate(message["msg_type"], message["content"])
        if item is not None:
            sent += items.size(item)
            await run.put(item)
        request.messages.task_done()
        if sent > limits.OUTPUT_BYTES:
            text = f"The execution was interrupted: it put out more than {limits.OUTPUT_BYTES >> 20} MiB."
            await run.put(items.error("OutputLimitExceeded", text))
            return


async def _drained(request: Request, *others: "asyncio.Future[None]") -> None:
    """Wait until all messages are handed on, or until one of the others makes that needless."""
    joined = asyncio.ensure_future(request.messages.join())
    try:
        await asyncio.wait({joined, *others}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        joined.cancel()
