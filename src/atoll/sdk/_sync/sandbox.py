# Generated from sdk/_async/sandbox.py by scripts/unasync.py. DO NOT EDIT.
"""The noun that users import: create a sandbox, work in it, end it."""

import builtins
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from atoll.sdk import wire
from atoll.sdk._sync.api import Api, open_api
from atoll.sdk._sync.commands import Commands
from atoll.sdk._sync.daemon import Daemon
from atoll.sdk._sync.files import Files
from atoll.sdk._sync.pty import Pty
from atoll.sdk._sync.volume import Volume
from atoll.sdk._synchronization import undo, whole
from atoll.sdk.connection import resolve
from atoll.sdk.errors import AtollError, InvalidArgumentError, NotFoundError
from atoll.sdk.models import (
    LogLine,
    MemoryKill,
    Metric,
    SandboxInfo,
    SnapshotInfo,
    TemplateInfo,
    Usage,
    VolumeInfo,
)
from atoll.sdk.network import Incoming, Network

# Seconds until a sandbox's deadline when nothing else is said.
TIMEOUT = 300


class Sandbox:
    """
    An isolated Linux machine for code that nobody trusts.

    Make one with ``create``, find one with ``get`` or ``connect``.
    As a context manager it is killed at the end; otherwise it lives until ``kill`` or its deadline.

    Every class method takes ``api_url``, ``api_key`` and ``request_timeout`` (seconds for one call,
    default 60); what is not given comes from ``ATOLL_API_URL`` and ``ATOLL_API_KEY``.

    Each call says the errors that are its own. Besides, every one raises UnauthenticatedError without an API
    key or with a wrong one, UnavailableError where Atoll does not answer, DeadlineExceededError after
    ``request_timeout``, and ConnectionLostError where the connection broke in the middle.

    Attributes:
        commands: run programs.
        files: read, write, list, watch.
        pty: terminals.
    """

    commands: Commands
    files: Files
    pty: Pty

    def __init__(self, api: Api, owned: wire.OwnedSandbox) -> None:
        self._api = api
        self._info = owned.info
        self._ended = owned.info.ended_at is not None
        self._traffic_token = owned.traffic_token
        self._daemon = Daemon(api.connection, owned.info.id, owned.access_token)
        self.commands = Commands(self._daemon)
        self.files = Files(self._daemon)
        self.pty = Pty(self._daemon)

    def __repr__(self) -> str:
        status = "ended" if self._ended else self._info.status
        return f"<Sandbox {self.id} from {self._info.template!r}, {status}>"

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self._info.id

    @property
    def traffic_token(self) -> str | None:
        """What requests to its ports show as ``E2B-Traffic-Access-Token``; None: nothing, they are public."""
        return self._traffic_token

    @classmethod
    def create(
        cls,
        template: str = "base",
        *,
        timeout: int = TIMEOUT,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        allow_internet_access: bool = True,
        network: Network | None = None,
        incoming: Incoming | None = None,
        secured: bool = True,
        volumes: Mapping[str, str | Volume | VolumeInfo] | None = None,
        on_deadline: Literal["kill", "pause", "pause_files"] = "kill",
        auto_resume: bool = False,
        cpus: float | None = None,
        memory_mb: int | None = None,
        disk_mb: int | None = None,
        processes: int | None = None,
        persistent: bool = False,
        restart: Literal["never", "from_snapshot"] | None = None,
        snapshot_every: int | None = None,
        keep_snapshots: int = 3,
        idle_timeout: int | None = None,
        idempotency_key: str | None = None,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> Self:
        """
        Create a sandbox; return when it takes commands.

        Args:
            template: name or id of what it starts from.
            timeout: seconds until its deadline; ``set_timeout`` moves that.
            env: for every command inside.
            metadata: your own words about it; ``list`` can filter by them.
            allow_internet_access: whether it reaches the internet.
            network: which parts of it, and on which way; None: all, straight.
            incoming: who reaches its ports, and how its programs are asked; None: anybody, as they ask.
            secured: whether who speaks to its daemon must show its access token, as this client does. Without
                it, whoever knows the sandbox's id runs commands in it.
            volumes: what it sees that outlives it: by clean absolute path, the volume's name or id, or the
                volume itself; at most 16. Not where the system is: ``/etc``, ``/usr`` and such.
            on_deadline: what happens when ``timeout`` is over: "kill", "pause", or "pause_files", which keeps
                no memory, so that a resume boots.
            auto_resume: whether a request for it, this client's too, wakes it while it is paused.
            cpus: processor time, in cores; the template's size when not given, as for the next three.
            memory_mb: memory, in MiB.
            disk_mb: what may be written over the template, in MiB.
            processes: processes and threads inside.
            persistent: it has no deadline, whatever ``timeout`` says, and comes back after the server's
                machine was away: from its last snapshot, or else anew from its template.
            restart: when it ends without being asked, it has failed ("never") or comes back from its last
                snapshot; the latter is the default of persistent ones.
            snapshot_every: seconds between snapshots that are taken by themselves.
            keep_snapshots: how many of those are kept, the newest.
            idle_timeout: seconds that nobody calls it until it is killed, or paused if it is persistent.
            idempotency_key: a name for this call, 1 to 255 of a-z, 0-9 and -: whoever makes the same call
                under it again gets the same sandbox, though it may have ended. None: one is made up, so that
                an answer that was lost on its way makes no second sandbox: it is asked for again for some
                seconds.

        Raises:
            NotFoundError: no such template, or no such volume.
            InvalidArgumentError: a value outside its bounds.
            ResourceExhaustedError: the server is full, or the team has as many as it may.
            FailedPreconditionError: the key was used for another call.
            AbortedError: the first call under this key is still under way.
            UnavailableError: Atoll does not answer, or the sandbox did not come up.
        """
        sizes = {
            "cpus": cpus,
            "memory_bytes": None if memory_mb is None else memory_mb * 1024 * 1024,
            "disk_bytes": None if disk_mb is None else disk_mb * 1024 * 1024,
            "processes": processes,
        }
        wish: dict[str, Any] = {
            "template": template,
            "timeout_seconds": timeout,
            "env": dict(env or {}),
            "metadata": dict(metadata or {}),
            "internet": allow_internet_access,
            "network": (network or Network()).plain(),
            "incoming": (incoming or Incoming()).plain(),
            "secured": secured,
            "persistent": persistent,
            "restart": restart,
            "snapshot_every_seconds": snapshot_every,
            "keep_snapshots": keep_snapshots,
            "idle_timeout_seconds": idle_timeout,
            "limits": {name: size for name, size in sizes.items() if size is not None},
            "volumes": [
                {"path": path, "volume": one if isinstance(one, str) else one.id}
                for path, one in (volumes or {}).items()
            ],
            "on_deadline": on_deadline,
            "auto_resume": auto_resume,
        }
        api = Api(resolve(api_url, api_key, request_timeout))
        try:
            made = whole(lambda: api.create(wish, idempotency_key), lambda made: api.kill(made.info.id))
            return cls(api, made)
        except BaseException:
            undo(api.close)
            raise

    @classmethod
    def get(
        cls,
        sandbox_id: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> Self:
        """
        Find a sandbox, and leave its deadline as it is.

        One that has ended is found for some days; nothing but ``info`` works there.

        Raises:
            NotFoundError: no such sandbox.
        """
        api = Api(resolve(api_url, api_key, request_timeout))
        try:
            return cls(api, api.get(sandbox_id))
        except BaseException:
            undo(api.close)
            raise

    @classmethod
    def connect(
        cls,
        sandbox_id: str,
        *,
        timeout: int = TIMEOUT,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> Self:
        """
        Find a sandbox, and see to it that it lives ``timeout`` seconds from now, at least.

        One that is paused is resumed.

        Args:
            timeout: seconds until its deadline; where it runs, a later one stays.

        Raises:
            NotFoundError: no such sandbox, or it has ended.
            InvalidArgumentError: the timeout is longer than the server's longest.
            FailedPreconditionError: what was kept of it is damaged, or does not fit to the server.
            ResourceExhaustedError: the server is full, or the team has as many as it may; it stays paused.
        """
        api = Api(resolve(api_url, api_key, request_timeout))
        try:
            return cls(api, api.resume(sandbox_id, timeout))
        except BaseException:
            undo(api.close)
            raise

    @classmethod
    def templates(
        cls, *, api_url: str | None = None, api_key: str | None = None, request_timeout: float | None = None
    ) -> list[TemplateInfo]:
        """List what sandboxes can start from, snapshots apart."""
        with open_api(api_url, api_key, request_timeout) as api:
            return api.templates()

    @classmethod
    def list(
        cls,
        *,
        status: str | None = None,
        template: str | None = None,
        metadata: Mapping[str, str] | None = None,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> list[SandboxInfo]:
        """
        List your sandboxes, newest first.

        Args:
            status: "running", "killed" …; when not given, all that have not ended.
            template: only those from this one.
            metadata: only those with all these pairs.

        Raises:
            InvalidArgumentError: no such status.
        """
        query: dict[str, Any] = {"metadata": [f"{key}={value}" for key, value in (metadata or {}).items()]}
        query |= {"status": status} if status else {}
        query |= {"template": template} if template else {}
        with open_api(api_url, api_key, request_timeout) as api:
            return api.list(query)

    def kill(self) -> bool:
        """
        End the sandbox at once; return when nothing of it is left. False when it had ended before.

        Raises:
            UnavailableError: something of it would not go yet; the server keeps trying.
        """
        self._ended = True
        try:
            self._api.kill(self.id)
        except NotFoundError:
            return False
        return True

    def set_network(
        self, network: Network | None = None, *, allow_internet_access: bool = True
    ) -> SandboxInfo:
        """
        Replace what the sandbox may reach, as a whole; what it has open otherwise is cut.

        Args:
            network: which parts of the internet, and on which way; None: all, straight.
            allow_internet_access: False is the same as to deny everything.

        Raises:
            InvalidArgumentError: no such rules are possible.
            NotFoundError: it does not run.
            UnavailableError: the rules are kept, and tried again until they apply.
        """
        body = {"internet": allow_internet_access, **(network or Network()).plain()}
        self._info = (self._api.set_network(self.id, body)).info
        return self._info

    def set_timeout(self, timeout: int) -> None:
        """
        Set the sandbox's deadline, when it is killed, or paused if it was created so.

        Args:
            timeout: seconds from now; 0: at once.

        Raises:
            InvalidArgumentError: it is negative, or longer than the server's longest.
            NotFoundError: it does not run.
            FailedPreconditionError: it is persistent, and has no deadline.
        """
        self._info = (self._api.set_timeout(self.id, timeout, extend_only=False)).info

    def pause(self, *, memory: bool = True) -> SandboxInfo:
        """
        Write the sandbox to the server's disk and end its processes, until it is resumed; it costs disk only.

        Args:
            memory: False: keep files only; a resume boots.

        Raises:
            FailedPreconditionError: it does not run.
            NotFoundError: it has ended.
            ResourceExhaustedError: the server's disk is full; the sandbox runs on.
        """
        self._info = (self._api.pause(self.id, memory=memory)).info
        return self._info

    def resume(self, timeout: int = TIMEOUT, *, memory: bool = True) -> SandboxInfo:
        """
        Have a paused sandbox go on where it was; one that runs lives ``timeout`` seconds from now, at least.

        Args:
            timeout: seconds until its deadline; where it runs, a later one stays.
            memory: False: boot it from its files, whatever was kept.

        Raises:
            NotFoundError: it has ended.
            InvalidArgumentError: the timeout is longer than the server's longest.
            FailedPreconditionError: what was kept of it is damaged, or does not fit to the server.
            ResourceExhaustedError: the server is full, or the team has as many as it may; it stays paused.
        """
        self._info = (self._api.resume(self.id, timeout, memory=memory)).info
        return self._info

    def snapshot(self, name: str | None = None, *, memory: bool = True) -> SnapshotInfo:
        """
        Write the sandbox to the server's disk, and go on; ``create`` takes the snapshot's id or name.

        Args:
            name: an older snapshot of this name loses it. None: it has only an id.
            memory: False: keep files only; what is created from it boots.

        Raises:
            FailedPreconditionError: it does not run.
            NotFoundError: it has ended.
            InvalidArgumentError: no snapshot can be called that.
            AlreadyExistsError: a template has this name.
            ResourceExhaustedError: the server's disk is full, or there are as many as there may be.
        """
        return self._api.snapshot(self.id, name, memory=memory)

    def fork(self, count: int = 1, *, timeout: int = TIMEOUT) -> builtins.list[Self | AtollError]:
        """
        Create sandboxes that go on where this one is now; it goes on, too.

        Args:
            count: how many, 1 to 20.
            timeout: seconds until their deadline.

        Returns:
            For each, the sandbox, or why there is none. Each has connections of its own, to be closed.

        Raises:
            FailedPreconditionError: it does not run.
            NotFoundError: it has ended.
            InvalidArgumentError: another count, or a timeout that is longer than the server's longest.
            ResourceExhaustedError: the server's disk is full.
        """
        made = self._api.fork(self.id, count, timeout)
        return [
            one if isinstance(one, AtollError) else type(self)(Api(self._api.connection), one) for one in made
        ]

    def info(self) -> SandboxInfo:
        """
        Ask the server about the sandbox; works for some days after its end, too.

        Raises:
            NotFoundError: it has been forgotten.
        """
        self._info = (self._api.get(self.id)).info
        self._ended = self._info.ended_at is not None
        return self._info

    def usage(self) -> Usage:
        """
        Read what the sandbox uses, from outside, without waking it.

        Raises:
            NotFoundError: it does not run.
        """
        return self._api.usage(self.id)

    def memory_kills(self) -> builtins.list[MemoryKill]:
        """
        List the last processes inside that were killed for memory, oldest first; after its end, too.

        Raises:
            NotFoundError: it has been forgotten.
        """
        return self._api.memory_kills(self.id)

    def metrics(self, *, start: datetime | None = None, end: datetime | None = None) -> builtins.list[Metric]:
        """
        List what the sandbox used, a metric every 5 s; for two days after its end, too.

        Where no server ran there are none. A long time is told in fewer, longer steps.

        Args:
            start: the first moment, with a time zone; None: the first that is kept.
            end: the last one; None: now.

        Raises:
            InvalidArgumentError: a moment without a time zone, or an end before the start.
            NotFoundError: it has been forgotten.
        """
        return self._api.metrics(self.id, wire.period(start, end))

    def logs(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 1000,
        newest_first: bool = False,
        level: str = "debug",
        search: str = "",
    ) -> builtins.list[LogLine]:
        """
        Read the sandbox's log: its life, commands that started and ended; for some days after its end, too.

        Args:
            start: the first moment, with a time zone; None: the first that is kept.
            end: the first moment that is too late; None: none is.
            limit: lines, 1 to 1000.
            newest_first: else the oldest.
            level: the least: debug, info, warn or error.
            search: what message or fields contain, whatever its case; "": anything.

        Raises:
            InvalidArgumentError: a moment without a time zone, another limit or level.
            NotFoundError: it has been forgotten.
        """
        query = {"limit": limit, "newest_first": newest_first, "level": level, "search": search}
        return self._api.logs(self.id, query | wire.period(start, end))

    def host(self, port: int) -> str:
        """
        Return the host name under which a port of the sandbox is reached, with the edge's own port.

        Raises:
            InvalidArgumentError: it is not 1 to 65535.
        """
        if not 0 < port < 65536:
            raise InvalidArgumentError(f"{port} is no port.")
        return f"{port}-{self.id}.{self._info.domain}"

    def url(self, port: int) -> str:
        """Return the address under which a port of the sandbox is reached. Raises what ``host`` raises."""
        return f"{urlsplit(self._api.connection.api_url).scheme}://{self.host(port)}"

    def close(self) -> None:
        """Close the connections. The sandbox lives on."""
        self._daemon.close()
        self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.kill()
            else:
                # The body's error is what the caller must see.
                undo(self.kill)
        finally:
            undo(self.close)
