"""
One process of a kernel: starts it, asks it to run code, interrupts it, notices its end, kills it.

A kernel that has ended stays ended; another one takes its place (context.py). Nothing here wakes up while the
kernel is silent: no heartbeat, no polling of the process, and the kernel knows no parent whom it would poll.
"""

import asyncio
import functools
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from interpreter import items, limits
from interpreter.items import Item
from interpreter.languages import Language

KERNELS = "/opt/interpreter/kernels"
Message = dict[str, Any]


class KernelEndedError(Exception):
    """The kernel's process ended; the text says how."""


class Request:
    """Code that the kernel runs: hands its items on in order, until the kernel says that it is done."""

    def __init__(self, message_id: str, put: Callable[[Item], None]) -> None:
        self.id = message_id
        self._put = put
        self.replied = asyncio.Event()
        self.idle = asyncio.Event()
        # It has put out more than it may: the last item says so.
        self.flooded = asyncio.Event()
        # Nobody wants more of it.
        self.abandoned = False
        self._bytes = 0

    def take(self, message: Message) -> None:
        """Hand on what a message says to clients, while it is not too much."""
        item = items.translate(message["msg_type"], message["content"])
        if item is None or self.abandoned or self.flooded.is_set():
            return
        self._bytes += items.size(item)
        if self._bytes > limits.OUTPUT_BYTES:
            text = f"The execution was interrupted: it put out more than {limits.OUTPUT_BYTES >> 20} MiB."
            item = items.error("OutputLimitExceeded", text)
            self.flooded.set()
        self._put(item)


class Kernel:
    """A running kernel."""

    def __init__(self, language: Language, cwd: str) -> None:
        self._manager = AsyncKernelManager(
            kernel_name=language.kernel, kernel_spec_manager=KernelSpecManager(kernel_dirs=[KERNELS])
        )
        self._cwd = cwd
        self._client: AsyncKernelClient | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._request: Request | None = None
        self._pid = 0
        self.ended = asyncio.Event()
        self.how = ""

    async def start(self) -> None:
        """
        Start the process, and return when it answers.

        Raises:
            KernelEndedError: it ended, or did not answer in time; then it was killed.
        """
        try:
            async with asyncio.timeout(limits.START_S):
                # Of its own: with a parent to watch, a kernel would look for it every second.
                await self._manager.start_kernel(cwd=self._cwd, independent=True)
                self._watch()
                await self._connect()
        except TimeoutError:
            await self.kill()
            raise KernelEndedError(f"did not answer within {limits.START_S:g} s") from None
        except BaseException:
            await self.kill()
            raise

    def _watch(self) -> None:
        provisioner: Any = self._manager.provisioner
        self._pid = provisioner.process.pid
        loop = asyncio.get_running_loop()

        def wait() -> None:
            with suppress(ChildProcessError):
                # It stays a zombie: jupyter_client wants to reap it.
                result = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
                assert result is not None
                self.how = _outcome(result.si_code, result.si_status)
            with suppress(RuntimeError):  # The loop is closed: the server ends.
                loop.call_soon_threadsafe(self.ended.set)

        threading.Thread(target=wait, daemon=True, name=f"waits for {self._pid}").start()

    async def _connect(self) -> None:
        self._client = self._manager.client(context=_context())
        self._client.start_channels(stdin=False, hb=False)
        self._readers = [
            asyncio.ensure_future(self._read_output()),
            asyncio.ensure_future(self._read_replies()),
        ]
        while True:
            request = self._expect(self._client.kernel_info(), items.drop)
            await self._or_end(request.replied.wait())
            with suppress(TimeoutError):
                # What was published before the subscription took effect is lost: ask again.
                async with asyncio.timeout(limits.SUBSCRIBE_S):
                    await self._or_end(request.idle.wait())
                    self._request = None
                    return

    def _expect(self, message_id: str, put: Callable[[Item], None]) -> Request:
        self._request = Request(message_id, put)
        return self._request

    async def _or_end(self, wanted: Any) -> None:
        """Wait for something, or for the kernel's end."""
        waiting = asyncio.ensure_future(wanted)
        ended = asyncio.ensure_future(self.ended.wait())
        try:
            await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            ended.cancel()
        if self.ended.is_set() and not waiting.done():
            raise KernelEndedError(self.how)

    async def _read_output(self) -> None:
        assert self._client is not None
        while True:
            message = await self._client.iopub_channel.get_msg()
            request = self._request
            if request is None or message["parent_header"].get("msg_id") != request.id:
                continue
            if message["msg_type"] == "status":
                if message["content"].get("execution_state") == "idle":
                    request.idle.set()
            else:
                request.take(message)

    async def _read_replies(self) -> None:
        assert self._client is not None
        while True:
            message = await self._client.shell_channel.get_msg()
            if self._request is not None and message["parent_header"].get("msg_id") == self._request.id:
                self._request.replied.set()

    def execute(self, code: str, put: Callable[[Item], None], *, silent: bool = False) -> Request:
        """Ask the kernel to run code, and hand its items on to *put*; one at a time."""
        assert self._client is not None
        return self._expect(
            self._client.execute(
                code, silent=silent, store_history=not silent, allow_stdin=False, stop_on_error=False
            ),
            put,
        )

    async def done(self, request: Request) -> None:
        """
        Wait until the kernel is done with a request.

        Raises:
            KernelEndedError: it ended first.
        """
        first = asyncio.ensure_future(request.replied.wait())
        second = asyncio.ensure_future(request.idle.wait())
        try:
            await self._or_end(asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED))
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.STRAGGLER_S):
                    await self._or_end(asyncio.wait({first, second}))
        finally:
            first.cancel()
            second.cancel()

    async def interrupt(self) -> None:
        """Stop what it does: like Ctrl+C."""
        with suppress(Exception):
            await self._manager.interrupt_kernel()

    async def kill(self) -> None:
        """End it, with all that it started and did not detach."""
        for reader in self._readers:
            reader.cancel()
        if self._pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        with suppress(Exception):
            async with asyncio.timeout(limits.INTERRUPT_S):
                await self._manager.shutdown_kernel(now=True)
        if self._client is not None:
            self._client.stop_channels()


@functools.cache
def _context() -> zmq.asyncio.Context:
    """Make what all sockets are made in: they have its options from their beginning."""
    context = zmq.asyncio.Context()
    context.setsockopt(zmq.RCVHWM, limits.MESSAGES_AHEAD)
    return context


def _outcome(code: int, status: int) -> str:
    if code == os.CLD_EXITED:
        return f"exit code {status}"
    name = signal.Signals(status).name if status in signal.valid_signals() else str(status)
    reason = ": it may have used too much memory" if status == signal.SIGKILL else ""
    return f"killed by {name}{reason}"
