"""
Posts to URLs that strangers name.

The other end is hostile, and so may be who named it: this host must not be made to knock at doors that are
closed to them. So the addresses of a name are looked at when the connection is made, and that very address is
connected to; redirects and proxies are not followed; of an answer the head is read, up to a size and a time.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_address
from types import TracebackType
from typing import Self

import certifi
import httpcore
import structlog
from typing_extensions import override

from atoll.server.domain.webhooks import Address, Network, may_reach
from atoll.server.ports.webhooks import Courier, Receipt
from atoll.server.untrusted import BoundedStream, clean

log = structlog.get_logger(__name__)

# Of all that is read from one connection, TLS's handshake not counted: heads have some hundred bytes.
MOST_ANSWER_BYTES = 16 * 1024
# Lookups of names under way; each name is looked up once at a time; a dead name server takes 10 s.
MOST_LOOKUPS = 64
_HTTPS = 443


class RefusedError(Exception):
    """A name leads only to where no webhook may be."""


class HttpCourier(Courier):
    """Makes a connection for each letter, and leaves it after the answer's head."""

    def __init__(
        self,
        *,
        timeout: timedelta,
        allowed: Sequence[Network] = (),
        connections: int = 256,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """
        Args:
            timeout: for a letter, from looking up the name to the answer's head.
            allowed: networks that may be reached though they are not public.
            connections: at once; more would wait, in their own time.
            trust: for HTTPS; None: what this host trusts, and the usual authorities.
        """
        self._timeout_s = timeout.total_seconds()
        self._allowed = tuple(allowed)
        self._connections = connections
        self._trust = trust
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._lookups: Lookups | None = None

    async def __aenter__(self) -> Self:
        self._lookups = Lookups()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=self._trust or _usual_trust(),
            max_connections=self._connections,
            max_keepalive_connections=0,
            network_backend=_CarefulNetwork(self._lookups, self._allowed),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await self._pool.aclose()
        if self._lookups is not None:
            self._lookups.close()

    @override
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        began = time.monotonic()
        status, problem = None, ""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._post(url, headers, body)
        except TimeoutError:
            problem = f"no answer in {self._timeout_s:g} s"
        except RefusedError as error:
            problem = str(error)
        except OSError as error:
            problem = f"the name cannot be looked up: {clean(str(error))}"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            problem = f"{type(error).__name__}: {clean(str(error))}"
        except Exception as error:  # a URL that httpcore does not take, say: its owner has to change it
            log.warning("delivery failed in an unknown way", exc_info=error)
            problem = type(error).__name__
        return Receipt(status=status, problem=problem, duration_ms=round((time.monotonic() - began) * 1000))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        assert self._pool is not None, "not open"
        async with self._pool.stream("POST", url, headers=list(headers.items()), content=body) as response:
            return response.status


class Lookups:
    """
    Asks the host's resolver, in threads: it knows no other way.

    Whoever names dead names holds one thread with each: a name that is asked for already is waited for.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MOST_LOOKUPS, thread_name_prefix="lookup")
        self._underway: dict[str, asyncio.Future[list[Address]]] = {}

    async def addresses(self, host: str) -> list[Address]:
        """
        Return the addresses of a name.

        Raises:
            OSError: there are none, or nobody knows.
        """
        underway = self._underway.get(host)
        if underway is None:
            underway = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
            self._underway[host] = underway
            underway.add_done_callback(lambda done: self._done(host, done))
        return await asyncio.shield(underway)

    def _done(self, host: str, future: asyncio.Future[list[Address]]) -> None:
        del self._underway[host]
        if not future.cancelled():
            future.exception()  # whoever asked may have gone

    def close(self) -> None:
        """Let go of the threads; those that wait for a name server end when it has answered."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"no name: {error}") from error
    return [ip_address(str(place[0])) for *_, place in found]


class _CarefulNetwork(httpcore.AsyncNetworkBackend):
    """Connects to where webhooks may be."""

    def __init__(self, lookups: Lookups, allowed: Sequence[Network]) -> None:
        self._lookups = lookups
        self._allowed = allowed
        self._network = httpcore.AnyIOBackend()

    @override
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        public = [one for one in await self._lookups.addresses(host) if self._may_reach(one)]
        if not public:
            raise RefusedError("the URL leads to an address where no webhook may be")
        failure: httpcore.NetworkError | None = None
        for address in public:
            try:
                # Options: none of ours.
                stream = await self._network.connect_tcp(str(address), port, timeout, local_address)
            except httpcore.NetworkError as error:
                failure = error
            else:
                return BoundedStream(stream, MOST_ANSWER_BYTES)
        assert failure is not None
        raise failure

    def _may_reach(self, address: Address) -> bool:
        if not may_reach(address, self._allowed):
            return False
        # What listens on this host is not for them, under its public addresses too.
        return any(address in network for network in self._allowed) or not _is_this_host(address)


def _is_this_host(address: Address) -> bool:
    """Ask the kernel from where it would speak to an address: its own, from itself. Sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), _HTTPS))
        except OSError:
            # No way there: connecting says so.
            return False
        return ip_address(probe.getsockname()[0]) == address


def _usual_trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
