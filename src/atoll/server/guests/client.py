"""
Calls guestd's private service (proto/atoll/guest/v1) in a sandbox.

The other end is hostile: whoever is root in there can answer in guestd's place.
So an answer is read up to a limit of size and of time, redirects and proxies are not followed, and its text
goes into details only, and into what its owner is told of a refusal, cut short. A connection is for one call:
only to a machine that waits in the pool, where nobody is yet, it is kept for the next one, since that one is
in somebody's way; and it is that machine's, since its address is another one's tomorrow.
What counts is every byte that arrives, not the body's only: headers, informational answers and the edges of
chunks cost some thousand times their worth in time, which all sandboxes share.

The messages are the generated ones; the transport is httpcore, since connectrpc's client reads an answer of
any length into memory before it looks at its size, and httpx lets nobody count what arrives.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar

import httpcore
import structlog
from protobuf import Message
from protobuf.wkt import Timestamp
from typing_extensions import override

from atoll._gen.atoll.guest.v1 import guest_pb
from atoll.server.domain.errors import FailedPreconditionError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.logs import Line, parse_lines
from atoll.server.domain.machine import GuestConfiguration, KilledProcess, Machine
from atoll.server.domain.template import StartCommand
from atoll.server.domain.volume import VOLUMES
from atoll.server.ports.clock import Clock
from atoll.server.ports.guest import Guest
from atoll.server.untrusted import BoundedStream, clean

log = structlog.get_logger(__name__)

PORT = 49982
# Of Configuration, as guestd knows it.
CONFIGURATION_VERSION = 1
_SERVICE = "atoll.guest.v1.GuestService"
# Of what its start command said, this many characters are kept: somebody has to mend it.
_MOST_LAUNCH_TEXT = 1500
# The largest number that rows hold; guests claim up to 64 bits.
_MOST_NUMBER = 2**63 - 1
# No more are read of one answer: guestd kills as many at most.
_MOST_KILLED = 64

_HEADERS = (
    ("accept-encoding", "identity"),
    ("connect-protocol-version", "1"),
    # Not JSON: guestd's first call in a new sandbox would be 2 ms slower.
    ("content-type", "application/proto"),
)
# The connection is not used again.
_LAST_HEADERS = (*_HEADERS, ("connection", "close"))
_FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)

_Headers = tuple[tuple[str, str], ...]

_Answer = TypeVar("_Answer", bound="Message[Any]")


@dataclass(frozen=True, kw_only=True)
class GuestLimits:
    """
    How long and how much a guest may answer.

    Attributes:
        configure_timeout_s: for the whole call; it takes 3 ms, and a second on a host that is full.
        launch_grace_s: what a template's start command gets beyond its own time, for the answer to arrive.
        kill_timeout_s: for the whole call; shorter, since memory grows meanwhile, at up to 1 GB/s.
        answer_bytes: of all that is read as an answer, headers too; the largest true one has some hundred.
        journal_timeout_s: for one read of what happened inside; a kill waits for it.
        journal_bytes: of such an answer; guestd gives 48 KiB at once.
        probe_timeout_s: for the answer that decides whether a guest hangs; it takes milliseconds, and seconds
            where programs inside take all processors of a host that is full.
        connections: calls under way at once, in all sandboxes; more wait. Without probes.
        kept_connections: to machines that wait to be claimed; beyond it the oldest is closed, and that claim
            takes 1 ms longer.
    """

    configure_timeout_s: float = 10.0
    launch_grace_s: float = 5.0
    kill_timeout_s: float = 2.0
    answer_bytes: int = 4 * 1024
    journal_timeout_s: float = 0.5
    journal_bytes: int = 64 * 1024
    probe_timeout_s: float = 10.0
    connections: int = 64
    kept_connections: int = 256


class HttpGuest(Guest):
    """Calls guestd at port 49982 of a machine's address."""

    def __init__(
        self, *, clock: Clock, limits: GuestLimits | None = None, edge_authority: str = "", port: int = PORT
    ) -> None:
        """
        Args:
            clock: what guests are told as the time.
            limits: of answers.
            edge_authority: the certificate behind what the edge shows for names of rules, as PEM.
            port: another one than guestd's is for tests.
        """
        self._clock = clock
        self._limits = limits or GuestLimits()
        self._edge_authority = edge_authority
        self._port = port
        self._pool = _pool(self._limits.connections, self._limits.answer_bytes)
        # Apart, so that no kill for memory waits behind somebody who reads a log.
        self._journal_pool = _pool(self._limits.connections, self._limits.journal_bytes)
        # As many as are asked for: one that waits for its connection would look hung.
        self._probe_pool = _pool(None, self._limits.journal_bytes)
        # To machines that wait, a pool of one each: one for all would look at each connection for every call.
        self._kept: dict[SandboxId, httpcore.AsyncConnectionPool] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End calls under way."""
        await self._pool.aclose()
        await self._journal_pool.aclose()
        await self._probe_pool.aclose()
        while self._kept:
            await self._kept.pop(next(iter(self._kept))).aclose()

    async def configure(
        self, machine: Machine, configuration: GuestConfiguration, *, waits: bool = False
    ) -> None:
        """Send a sandbox all it has to know."""
        message = guest_pb.ConfigureRequest(configuration=self._translate(configuration, waits=waits))
        told = partial(
            self._call,
            machine,
            "Configure",
            message,
            guest_pb.ConfigureResponse,
            self._limits.configure_timeout_s,
        )
        kept = self._kept.pop(machine.sandbox_id, None)
        try:
            if waits:
                pool = _pool(1, self._limits.answer_bytes, 1)
                try:
                    answer = await told(pool=pool, headers=_HEADERS)
                except BaseException:
                    # A refusal leaves the connection open.
                    await pool.aclose()
                    raise
                await self._keep(machine, pool)
            else:
                answer = await told(pool=kept or self._pool)
        finally:
            if kept is not None:
                await kept.aclose()
        log.debug("guest configured", sandbox_id=machine.sandbox_id, guestd=clean(answer.version))

    async def _keep(self, machine: Machine, pool: httpcore.AsyncConnectionPool) -> None:
        self._kept[machine.sandbox_id] = pool
        if len(self._kept) > self._limits.kept_connections:
            # Mostly of a machine that is gone.
            await self._kept.pop(next(iter(self._kept))).aclose()

    async def trust_edge(self, machine: Machine) -> None:
        """Have its programs trust what the edge shows them."""
        message = guest_pb.TrustRequest(authorities=self._edge_authority)
        await self._call(machine, "Trust", message, guest_pb.TrustResponse, self._limits.configure_timeout_s)

    async def launch(self, machine: Machine, start: StartCommand) -> None:
        """Run a template's start command; return when it is ready."""
        message = guest_pb.LaunchRequest(
            command=start.command, ready=start.ready, timeout_seconds=start.timeout_s
        )
        timeout_s = start.timeout_s + self._limits.launch_grace_s
        status, body = await self._exchange(machine, "Launch", message, timeout_s, self._pool)
        if status != HTTPStatus.OK:
            # Asking again would not help: it is the template's own programs that failed.
            raise FailedPreconditionError(
                "the template's start command did not get ready",
                details=f"{machine.sandbox_id}: HTTP {status}: "
                + clean(body.decode(errors="replace"), _MOST_LAUNCH_TEXT),
                resolution="see what the command said, and mend the template",
            )

    async def kill_greediest(self, machine: Machine, *, excess_bytes: int) -> Sequence[KilledProcess]:
        """Have the processes killed that hold most memory."""
        answer = await self._call(
            machine,
            "KillGreediest",
            guest_pb.KillGreediestRequest(excess_bytes=excess_bytes),
            guest_pb.KillGreediestResponse,
            self._limits.kill_timeout_s,
        )
        return [
            KilledProcess(
                pid=killed.pid,
                command=clean(killed.command),
                resident_bytes=min(killed.resident_bytes, _MOST_NUMBER),
            )
            for killed in answer.killed[:_MOST_KILLED]
        ]

    async def probe(self, machine: Machine) -> None:
        """Return once guestd has answered."""
        request = guest_pb.ReadJournalRequest(after=_MOST_NUMBER, sandbox_id=machine.sandbox_id)
        timeout_s = self._limits.probe_timeout_s
        await self._call(
            machine, "ReadJournal", request, guest_pb.ReadJournalResponse, timeout_s, pool=self._probe_pool
        )

    async def read_journal(self, machine: Machine, *, after: int) -> tuple[Sequence[Line], bool]:
        """Read what happened inside."""
        answer = await self._call(
            machine,
            "ReadJournal",
            guest_pb.ReadJournalRequest(after=after, sandbox_id=machine.sandbox_id),
            guest_pb.ReadJournalResponse,
            self._limits.journal_timeout_s,
            pool=self._journal_pool,
        )
        return parse_lines(answer.lines, after=after), answer.more

    async def _call(
        self,
        machine: Machine,
        method: str,
        request: "Message[Any]",
        answer_type: type[_Answer],
        timeout_s: float,
        *,
        pool: httpcore.AsyncConnectionPool | None = None,
        headers: _Headers = _LAST_HEADERS,
    ) -> _Answer:
        status, body = await self._exchange(machine, method, request, timeout_s, pool or self._pool, headers)
        if status != HTTPStatus.OK:
            said = f"HTTP {status}: {clean(body.decode(errors='replace'))}"
            raise _unavailable(machine, method, said, f"refused {method}: {said}")
        try:
            # Anything can be in there: the parser's own errors are many.
            return answer_type.from_binary(body)
        except Exception as error:
            raise _unavailable(machine, method, f"an answer that cannot be read: {error!r:.200}") from error

    async def _exchange(
        self,
        machine: Machine,
        method: str,
        request: "Message[Any]",
        timeout_s: float,
        pool: httpcore.AsyncConnectionPool,
        headers: _Headers = _LAST_HEADERS,
    ) -> tuple[int, bytes]:
        url = f"http://{machine.address}:{self._port}/{_SERVICE}/{method}"
        try:
            async with asyncio.timeout(timeout_s):
                return await _post(pool, url, request.to_binary(), headers)
        except TimeoutError as error:
            raise _unavailable(machine, method, f"no answer in {timeout_s} s") from error
        except _FAILURES as error:
            raise _unavailable(machine, method, f"{type(error).__name__}: {clean(str(error))}") from error

    def _translate(self, configuration: GuestConfiguration, *, waits: bool) -> guest_pb.Configuration:
        return guest_pb.Configuration(
            version=CONFIGURATION_VERSION,
            generation=configuration.generation,
            identity=guest_pb.Identity(
                sandbox_id=configuration.sandbox_id,
                template_id=configuration.template_id,
                team_id=configuration.team_id,
                hostname=configuration.hostname,
                machine_id=configuration.machine_id,
            ),
            env=dict(configuration.env),
            access_token=configuration.access_token,
            default_user=configuration.default_user,
            default_workdir=configuration.default_workdir,
            time=Timestamp.from_datetime(self._clock.now()),
            limits=guest_pb.Limits(
                processes=configuration.processes, memory_bytes=configuration.memory_bytes
            ),
            network=guest_pb.Network(
                address=configuration.address, dns_servers=list(configuration.dns_servers)
            ),
            volumes=[
                guest_pb.Volume(name=mount.name, source=f"{VOLUMES}/{mount.place}", path=mount.path)
                for mount in configuration.volumes
            ],
            claimed=configuration.claimed,
            waits=waits,
        )


def _pool(connections: int | None, most_bytes: int, kept: int = 0) -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(
        max_connections=connections,
        max_keepalive_connections=kept,
        network_backend=_BoundedNetwork(most_bytes),
    )


async def _post(
    pool: httpcore.AsyncConnectionPool, url: str, body: bytes, headers: _Headers
) -> tuple[int, bytes]:
    async with pool.stream("POST", url, content=body, headers=headers) as response:
        return response.status, await response.aread()


class _BoundedNetwork(httpcore.AsyncNetworkBackend):
    """Connects as ever, but so much is read from each connection and no more, and a call is one packet."""

    def __init__(self, most: int) -> None:
        self._most = most
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
        stream = await self._network.connect_tcp(host, port, timeout, local_address, socket_options)
        return _CallStream(stream, self._most)


class _CallStream(BoundedStream):
    """
    Writes a call in one piece.

    httpcore writes head and body apart. Each piece is a packet that wakes the sandbox, on processors that the
    server wants as well. At the end of a call it writes nothing, which is the sign.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream, most: int) -> None:
        super().__init__(stream, most)
        self._held = b""

    @override
    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._held += buffer
        if not buffer:
            held, self._held = self._held, b""
            await super().write(held, timeout)


def _unavailable(
    machine: Machine, method: str, details: str, what: str = "does not answer"
) -> UnavailableError:
    return UnavailableError(
        f"the sandbox {what}",
        details=f"{method} of {machine.sandbox_id} at {machine.address}: {details}",
    )
