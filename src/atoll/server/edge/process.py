"""
The edge's life: started or adopted, watched, told, ended.

The edge is a process of its own that outlives the server, so that streams go on while the server restarts.
Nothing that users send passes through here.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import structlog

from atoll.server.domain.errors import InvalidArgumentError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.edge.admin import EdgeAdmin, EdgeStatus
from atoll.server.edge.tls import EdgeTLS, tls_flags, tls_words
from atoll.server.host.daemon import DaemonError, listener_of, reap, runs_program, start_daemon
from atoll.server.host.pidfd import Pidfd
from atoll.server.ports.edge import Edge

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class EdgeOptions:
    """
    What the edge is started with.

    Attributes:
        program: the file to run.
        listen: addresses for clients, ``host:port``.
        api_socket: where the server's public API is.
        control_socket: where the server answers the edge's questions.
        admin_socket: where the edge is told.
        address_range: addresses of all sandboxes of the home, in CIDR form.
        egress_listen: address for sandboxes' connections that go by domains; None for none.
        egress_mark: the kernel's mark on what is sent to the world for sandboxes; 0: none.
        egress_authority: file with what signs names of sandboxes' rules; None: no rule works.
        server_roots: file with authorities of servers of these names, beside the host's; None for none.
        proxy_networks: where sandboxes' proxies may be though no sandbox reaches it, in CIDR form.
        dns_listen: address for sandboxes' DNS questions, ``host:port``; None for none.
        log_file: where the edge logs, behind what is there.
        log_bytes: length of that file; a longer one is renamed, with ".1" behind its name.
        log_files: how many older ones are kept.
        tls: None for none.
    """

    program: Path
    listen: tuple[str, ...]
    api_socket: Path
    control_socket: Path
    admin_socket: Path
    address_range: str
    dns_listen: str | None
    egress_listen: str | None
    egress_mark: int
    log_file: Path
    log_bytes: int
    log_files: int
    tls: EdgeTLS | None = None
    egress_authority: Path | None = None
    server_roots: Path | None = None
    proxy_networks: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        """The command line."""
        return [
            str(self.program),
            *(word for address in self.listen for word in ("--listen", address)),
            *("--api", str(self.api_socket)),
            *("--control", str(self.control_socket)),
            *("--admin", str(self.admin_socket)),
            *("--range", self.address_range),
            *(("--egress-listen", self.egress_listen) if self.egress_listen else ()),
            *("--egress-mark", str(self.egress_mark)),
            *(("--egress-ca", str(self.egress_authority)) if self.egress_authority else ()),
            *(("--egress-roots", str(self.server_roots)) if self.server_roots else ()),
            *(word for network in self.proxy_networks for word in ("--egress-proxy-network", network)),
            *(("--dns-listen", self.dns_listen) if self.dns_listen else ()),
            *("--log", str(self.log_file)),
            *("--log-bytes", str(self.log_bytes)),
            *("--log-files", str(self.log_files)),
            *tls_words(self.tls),
        ]

    @property
    def flags(self) -> dict[str, Any]:
        """The same as the edge's status tells it."""
        return {
            "listen": list(self.listen),
            "api": str(self.api_socket),
            "control": str(self.control_socket),
            "admin": str(self.admin_socket),
            "egress_listen": self.egress_listen or "",
            "egress_mark": self.egress_mark,
            "egress_ca": str(self.egress_authority or ""),
            "egress_roots": str(self.server_roots or ""),
            "egress_proxy_networks": list(self.proxy_networks) or None,
            "dns_listen": self.dns_listen or "",
            "range": self.address_range,
            "log": str(self.log_file),
            "log_bytes": self.log_bytes,
            "log_files": self.log_files,
            **tls_flags(self.tls),
        }


@dataclass(frozen=True, kw_only=True)
class EdgeLimits:
    """
    How long the edge may take.

    Attributes:
        answer_s: for any answer on its socket, in seconds. Forgetting takes a millisecond, and seconds only
            on a host that is full.
        resolve_s: for an answer that needs a name resolved; resolvers have 4.5 s for each kind of address.
        start_s: from its start until it listens; it takes 10 ms.
        stop_s: from being asked to end until it has; it lets requests under way go on for 2 s.
        restart_pause_s: pause before the edge is started again after it died; doubles while it dies young.
        restart_pause_most_s: the longest such pause.
        young_s: an edge that lived shorter died young.
    """

    answer_s: float = 4.0
    resolve_s: float = 12.0
    start_s: float = 10.0
    stop_s: float = 5.0
    restart_pause_s: float = 0.05
    restart_pause_most_s: float = 5.0
    young_s: float = 10.0


class EdgeProcess(Edge):
    """
    The edge of one home.

    ``ensure`` first, then ``watch`` in a task for as long as the server lives.
    ``close`` lets go and leaves the edge running; ``stop`` ends it.
    """

    def __init__(self, options: EdgeOptions, limits: EdgeLimits | None = None) -> None:
        self._options = options
        self._limits = limits or EdgeLimits()
        self._admin = EdgeAdmin(options.admin_socket)
        self._held: Pidfd | None = None
        self._stopped = False
        # Held by whoever starts or ends a process.
        self._changing = asyncio.Lock()

    async def ensure(self) -> EdgeStatus:
        """
        Have an edge run as the options say: keep the one that does, replace one that is other, start one.

        Raises:
            UnavailableError: it does not start; details hold what it logged.
        """
        async with self._changing:
            self._stopped = False
            if self._held is None or self._held.has_ended():
                await self._adopt_locked()
            if self._held is None:
                await self._start_locked()
        return await self.status()

    async def status(self) -> EdgeStatus:
        """
        Ask the edge who it is and what it holds.

        Raises:
            UnavailableError: it does not answer.
        """
        try:
            return await self._admin.status(timeout_s=self._limits.answer_s)
        except httpx.HTTPError as error:
            raise UnavailableError("the edge does not answer", details=repr(error)) from error

    async def watch(self) -> None:
        """Start the edge again whenever it ends; returns after ``stop``."""
        loop = asyncio.get_running_loop()
        pause = self._limits.restart_pause_s
        while not self._stopped:
            held, since = self._held, loop.time()
            if held is not None:
                await held.wait_ended()
            if loop.time() - since > self._limits.young_s:
                pause = self._limits.restart_pause_s
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._limits.restart_pause_most_s)
            async with self._changing:
                if self._stopped or (self._held is not held and self._held is not None):
                    continue
                log.warning("edge ended by itself", pid=held.identity.pid if held else None)
                self._let_go()
                with contextlib.suppress(UnavailableError):  # logged; tried again after a pause
                    await self._start_locked()

    async def forget(self, sandbox_id: SandboxId) -> None:
        """Drop a route; an edge that does not answer is ended and started again, which forgets everything."""
        asked = self._held
        try:
            await self._admin.forget(sandbox_id, timeout_s=self._limits.answer_s)
        except httpx.HTTPError as error:
            log.warning("edge did not forget, restarting it", sandbox_id=sandbox_id, error=repr(error))
            await self._restart(asked)

    async def ask_again(self, sandbox_id: SandboxId) -> None:
        """Have it ask at the next request; one that does not answer is left to ``forget``."""
        try:
            await self._admin.ask_again(sandbox_id, timeout_s=self._limits.answer_s)
        except httpx.HTTPError as error:
            log.warning("edge does not know of a pause", sandbox_id=sandbox_id, error=repr(error))

    async def retire(self, sandbox_id: SandboxId, *, idle_for: timedelta) -> timedelta | None:
        """Drop a route that is not used; an edge that does not answer is ended and started again."""
        asked, idle_s = self._held, idle_for.total_seconds()
        try:
            left = await self._admin.retire(sandbox_id, idle_s=idle_s, timeout_s=self._limits.answer_s)
        except httpx.HTTPError as error:
            log.warning("edge did not answer, restarting it", sandbox_id=sandbox_id, error=repr(error))
            await self._restart(asked)
            return idle_for
        return timedelta(seconds=left) if left > 0 else None

    async def forget_egress(self, sandbox_id: SandboxId, *, unless: str = "") -> None:
        """Drop what a sandbox may reach; an edge that does not answer is ended and started again."""
        asked = self._held
        try:
            await self._admin.forget_egress(sandbox_id, unless=unless, timeout_s=self._limits.answer_s)
        except httpx.HTTPError as error:
            log.warning("edge did not forget, restarting it", sandbox_id=sandbox_id, error=repr(error))
            await self._restart(asked)

    async def check_proxy(self, host: str) -> None:
        """Ask the edge, which resolves names for sandboxes."""
        try:
            refusal = await self._admin.judge_upstream(host, timeout_s=self._limits.resolve_s)
        except httpx.HTTPError as error:
            raise UnavailableError("the edge does not answer", details=repr(error)) from error
        if refusal is not None:
            raise InvalidArgumentError(f"egressProxy: {refusal}")

    async def stop(self) -> None:
        """
        End the edge, whoever started it; return when it is gone. Nothing if there is none.

        Raises:
            UnavailableError: it does not end, not even when killed.
        """
        async with self._changing:
            self._stopped = True
            if self._held is None or self._held.has_ended():
                self._let_go()
                self._held = listener_of(self._options.admin_socket)
            if self._held is not None:
                await self._end_locked(self._held)
            self._options.admin_socket.unlink(missing_ok=True)

    async def close(self) -> None:
        """Let go of the edge and leave it running; cancel ``watch`` before."""
        self._let_go()
        await self._admin.close()

    async def _adopt_locked(self) -> None:
        """Take over the edge that listens on our socket, or end it if it is not what we would start."""
        self._let_go()
        held = listener_of(self._options.admin_socket)
        if held is None:
            return
        if await self._is_ours(held):
            log.info("edge adopted", pid=held.identity.pid)
            self._held = held
        else:
            log.info("edge differs from what is wanted, replacing it", pid=held.identity.pid)
            await self._end_locked(held)

    async def _is_ours(self, held: Pidfd) -> bool:
        # The same file is the same version.
        if not runs_program(held, self._options.program):
            return False
        try:
            found = await self._admin.status(timeout_s=self._limits.answer_s)
        except httpx.HTTPError:
            return False
        return found.pid == held.identity.pid and found.flags == self._options.flags

    async def _start_locked(self) -> None:
        try:
            self._held = await start_daemon(
                self._options.argv, log_file=self._options.log_file, patience_s=self._limits.start_s
            )
        except (DaemonError, OSError) as error:
            log.warning("edge does not start", error=str(error))
            raise UnavailableError(
                "the edge does not start",
                details=str(error),
                resolution=f"see {self._options.log_file}; is another program listening on its address?",
            ) from error
        log.info("edge started", pid=self._held.identity.pid)

    async def _restart(self, held: Pidfd | None) -> None:
        async with self._changing:
            if self._stopped or (self._held is not held and self._held is not None):
                # Ended or restarted since it was asked: everything is forgotten.
                return
            if held is None:
                held = listener_of(self._options.admin_socket)
            if held is not None:
                await self._kill_locked(held)
            with contextlib.suppress(
                UnavailableError
            ):  # logged; what had to be forgotten is; watch tries again
                await self._start_locked()

    async def _end_locked(self, held: Pidfd) -> None:
        try:
            await self._admin.stop(timeout_s=self._limits.answer_s)
            async with asyncio.timeout(self._limits.stop_s):
                await held.wait_ended()
        except (httpx.HTTPError, TimeoutError):
            log.warning("edge does not end when asked, killing it", pid=held.identity.pid)
        await self._kill_locked(held)

    async def _kill_locked(self, held: Pidfd) -> None:
        try:
            await held.kill(patience_s=self._limits.stop_s)
        except TimeoutError as error:
            raise UnavailableError(
                "the edge does not end", details=f"process {held.identity.pid} outlives SIGKILL"
            ) from error
        self._held = held
        self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            if self._held.has_ended():
                reap(self._held)
            self._held.close()
            self._held = None
