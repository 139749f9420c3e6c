"""
What differs between asyncio and threads, each in two forms under one name with and without ``Async``.

``scripts/unasync.py`` turns uses of the first form into uses of the second.
Nothing else of the SDK exists twice by hand.
"""

import asyncio
import contextlib
import inspect
import ssl
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, runtime_checkable
from urllib.parse import urlsplit

import httpx
from pyqwest import HTTPTransport, Proxy, SyncHTTPTransport

from atoll.sdk.errors import InvalidArgumentError
from atoll.sdk.transport import SILENCE

T = TypeVar("T")

# Bytes of a file that are read and sent at once.
CHUNK = 256 * 1024
# Seconds that an undo may take after a call was given up.
UNDO_TIMEOUT = 10.0
# Seconds that the sync form waits for a thread that feeds input, after the command has ended.
FEED_END_TIMEOUT = 5.0

# A proxy that is for everything but this machine's own addresses, for calls that go nowhere else: there is no
# other way to have HTTP_PROXY ignored. "*" does not match addresses.
_LOOPBACK = "127.0.0.0/8,::1,localhost"


@runtime_checkable
class Readable(Protocol):
    """A file or something like it."""

    def read(self, size: int = ..., /) -> bytes | str:
        """Return some bytes; none at the end."""
        ...


Data = str | bytes | bytearray | memoryview | Path | Readable | Iterable[bytes]
AsyncData = Data | AsyncIterable[bytes]


def in_memory(data: Any) -> bytes | None:
    """Return data that is in memory already, as bytes; None for what has to be read."""
    if isinstance(data, str):
        return data.encode()
    return bytes(data) if isinstance(data, bytes | bytearray | memoryview) else None


def _as_bytes(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise InvalidArgumentError(f"data must be bytes, not {type(piece).__name__}.")
    return bytes(piece)


def _reader(data: Any, stack: ExitStack) -> Callable[[], bytes]:
    """Return what gives the next piece of data, empty at its end."""
    if isinstance(data, Path):
        data = stack.enter_context(data.open("rb"))
    if isinstance(data, Readable):
        source = data
        return lambda: _as_bytes(source.read(CHUNK))
    if not isinstance(data, Iterable):
        raise InvalidArgumentError(
            f"data cannot be {type(data).__name__}: give str, bytes, a Path, a file or an iterator."
        )
    pieces = iter(data)
    return lambda: next((piece for piece in map(_as_bytes, pieces) if piece), b"")


def chunks(data: Data) -> Iterator[bytes]:
    """Read data piece by piece."""
    if (ready := in_memory(data)) is not None:
        yield ready
        return
    with ExitStack() as stack:
        read = _reader(data, stack)
        while piece := read():
            yield piece


async def async_chunks(data: AsyncData) -> AsyncIterator[bytes]:
    """Read data piece by piece; files are read beside the event loop."""
    if (ready := in_memory(data)) is not None:
        yield ready
    elif isinstance(data, AsyncIterable):
        async for piece in data:
            if piece:
                yield _as_bytes(piece)
    else:
        with ExitStack() as stack:
            read = _reader(data, stack)
            while piece := await asyncio.to_thread(read):
                yield piece


def call_back(callback: Callable[[T], object] | None, value: T) -> None:
    """Call what the user gave."""
    if callback is not None:
        callback(value)


async def async_call_back(callback: Callable[[T], object] | None, value: T) -> None:
    """Call what the user gave; await what it returns, if that can be."""
    if callback is not None:
        outcome = callback(value)
        if inspect.isawaitable(outcome):
            await outcome


def undo(work: Callable[[], object]) -> None:
    """Clean up after a call that was given up; its own failure must not hide why."""
    with contextlib.suppress(Exception):
        work()


async def async_undo(work: Callable[[], Awaitable[object]]) -> None:
    """Clean up after a call that was given up, though the task is being cancelled, and within bounds."""

    async def bounded() -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(UNDO_TIMEOUT):
                await work()

    await asyncio.shield(bounded())


def whole(work: Callable[[], T], drop: Callable[[T], object]) -> T:
    """Make something; the sync form cannot be given up half-way, so there is nothing to drop."""
    del drop
    return work()


async def async_whole(work: Callable[[], Awaitable[T]], drop: Callable[[T], Awaitable[object]]) -> T:
    """Make something; who gives up half-way waits, within bounds, until it is made, and drops it."""
    making = asyncio.ensure_future(work())
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:

        async def finish() -> None:
            await drop(await making)

        await async_undo(finish)
        raise


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


async def async_sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


def close_stream(stream: Any) -> None:
    """End a generator that reads from a connection, which closes that; how that goes is of no interest."""
    with contextlib.suppress(Exception):
        stream.close()


async def async_close_stream(stream: Any) -> None:
    """End a generator that reads from a connection, which closes that; how that goes is of no interest."""
    with contextlib.suppress(Exception):
        await stream.aclose()


class Alongside:
    """Runs a function in a thread beside the body of the ``with``; its error is raised after that."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        # A user's iterator may block for ever: the thread must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="atoll-input", daemon=True)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):
            self._thread.join(timeout=FEED_END_TIMEOUT)
            if self._error is not None:
                raise self._error


class AsyncAlongside:
    """Runs a coroutine function beside the body of the ``async with``; when that ends, so does it."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._error: BaseException | None = None

    async def _run(self) -> None:
        try:
            await self._work()
        except Exception as error:
            self._error = error

    async def __aenter__(self) -> Self:
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._task = self._group.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # The body's own error, which a task group wraps. The work's explains it, if there is one.
            raise self._error or group.exceptions[0] from None
        if error is None and self._error is not None:
            raise self._error


def is_loopback(url: str) -> bool:
    """Tell whether an address is this machine's own, which no proxy reaches."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _http_options(url: str, timeout: float) -> dict[str, Any]:
    # Loading the CAs takes 50 ms; an http:// address needs none.
    secure = urlsplit(url).scheme == "https"
    return {
        "base_url": url,
        "timeout": httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        "trust_env": not is_loopback(url),
        "verify": True if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    }


def http_client(url: str, timeout: float) -> httpx.Client:
    """Make a client for calls and files."""
    return httpx.Client(**_http_options(url, timeout))


def async_http_client(url: str, timeout: float) -> httpx.AsyncClient:
    """Make a client for calls and files."""
    return httpx.AsyncClient(**_http_options(url, timeout))


def _transport_options(*, local: bool, streams: bool) -> dict[str, Any]:
    return {
        "tls_include_system_certs": not local,
        "connect_timeout": 10.0,
        # The timer runs while a request is sent, too: it is only for streams that come down.
        "read_timeout": SILENCE if streams else None,
        "proxy": Proxy("http://127.0.0.1:9", no_proxy=_LOOPBACK) if local else None,
        # Streams are never compressed: it would hold output back.
        "enable_gzip": False,
        "enable_brotli": False,
        "enable_zstd": False,
    }


@cache
def rpc_transport(*, local: bool, streams: bool) -> SyncHTTPTransport:
    """Return the process's pool of connections for remote calls; streams have one of their own."""
    return SyncHTTPTransport(**_transport_options(local=local, streams=streams))


@cache
def async_rpc_transport(*, local: bool, streams: bool) -> HTTPTransport:
    """Return the process's pool of connections for remote calls; streams have one of their own."""
    return HTTPTransport(**_transport_options(local=local, streams=streams))
