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
from interpreter.request import Message, Request

KERNELS = "/opt/interpreter/kernels"


class KernelEndedError(Exception):
    """The kernel's process ended; the text says how."""


class Kernel:
    """A running kernel."""

    def __init__(self, language: Language, cwd: str) -> None:
        self._manager = AsyncKernelManager(
            kernel_name=language.kernel, kernel_spec_manager=KernelSpecManager(kernel_dirs=[KERNELS])
        )
        self._language = language
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
            KernelEndedError: it could not be started, ended, or did not answer in time; then it was killed.
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
        except OSError as problem:
            # Its directory is gone, or there is no room for another process.
            await self.kill()
            raise KernelEndedError(str(problem)) from problem
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
                self.how = self.how or _outcome(result.si_code, result.si_status)
            with suppress(RuntimeError):  # The loop is closed: the server ends.
                loop.call_soon_threadsafe(self.ended.set)

        threading.Thread(target=wait, daemon=True, name=f"waits for {self._pid}").start()

    async def _connect(self) -> None:
        self._client = self._manager.client(context=_context())
        self._client.start_channels(stdin=False, hb=False)
        self._readers = [
            asyncio.ensure_future(self._read(self._client.iopub_channel, Request.take)),
            asyncio.ensure_future(self._read(self._client.shell_channel, Request.take_reply)),
        ]
        for reader in self._readers:
            reader.add_done_callback(self._no_longer_read)
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

    async def _read(self, channel: Any, take: Callable[[Request, Message, int], None]) -> None:
        while True:
            frames: list[bytes] = await channel.socket.recv_multipart()
            # A cell's code can send anything through its kernel's sockets. What is no message is passed over,
            # and where one is missing for it, `done` finds out.
            with suppress(Exception):
                self._hand_on(channel.session, frames, take)

    def _hand_on(
        self, session: Any, frames: list[bytes], take: Callable[[Request, Message, int], None]
    ) -> None:
        request = self._request
        if request is None:
            return
        size = sum(map(len, frames))
        _, parts = session.feed_identities(frames)
        # What is too much stays as it came: in memory it would be several times as much.
        message = session.deserialize(parts, content=size <= limits.OUTPUT_BYTES)
        if message["parent_header"].get("msg_id") == request.id:
            take(request, message, size)

    def _no_longer_read(self, reader: "asyncio.Task[None]") -> None:
        if not reader.cancelled():
            self._give_up(f"its messages cannot be read: {reader.exception()}")

    def _give_up(self, how: str) -> None:
        """Take it for ended: whoever waits for it hears so, and it is replaced."""
        self.how = self.how or how
        self.ended.set()

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
        Wait until the kernel is done with a request; a failure that it did not tell of is told.

        Raises:
            KernelEndedError: it ended first, or is of no use any more.
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
        if self._language.is_go_between and request.abandoned and not request.replied.is_set():
            # It lives on without the other, and would not run the next cell.
            self._give_up("it gave no answer when it was interrupted")
            raise KernelEndedError(self.how)
        if not request.idle.is_set():
            await self._ensure_heard()
        request.settle()

    async def _ensure_heard(self) -> None:
        """Have it say anything: a flood can cost a message, but not all that are to come."""
        assert self._client is not None
        request = self._expect(self._client.kernel_info(), items.drop)
        try:
            async with asyncio.timeout(limits.STRAGGLER_S):
                await self._or_end(request.idle.wait())
        except TimeoutError:
            self._give_up("what it puts out is not heard any more")
            raise KernelEndedError(self.how) from None

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
