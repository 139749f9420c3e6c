"""
``atoll dns install --hosts``: names of live sandboxes in /etc/hosts, where the resolver is to be left alone.

The operator's wish is written down in the home (``resolving``); the server writes the names, and whoever ends
the wish takes them out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog
from typing_extensions import override

from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.domain.hostnames import parse_ports
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import Sandbox
from atoll.server.host import hosts_file
from atoll.server.host.hosts_file import HostsFileError
from atoll.server.main import doors
from atoll.server.ports.names import NamesFile
from atoll.server.settings import Settings
from atoll.server.settings.home import Home
from atoll.server.stores.database import Database
from atoll.server.stores.sandboxes import SqliteSandboxes
from atoll.server.stores.telling import Telling

log = structlog.get_logger(__name__)

# Homes of one machine change the same file.
LOCK = Path("/run/atoll/hosts.lock")


class HostsNames(NamesFile):
    """Names in a file, while the home's wish for them stands."""

    def __init__(
        self, home: Home, settings: Settings, wanted: Callable[[], bool], path: Path = hosts_file.PATH
    ) -> None:
        """
        Args:
            home: whose.
            settings: which names, of what domain, and where they lead.
            wanted: whether they are.
            path: of the file.
        """
        self._home = home
        self._tls = doors.read(home, settings)
        self._ports = parse_ports(settings.tls.hosts_ports)
        self._most = settings.tls.hosts_names
        self._wanted = wanted
        self._path = path

    @property
    @override
    def room(self) -> int:
        each = max(1, len(self._ports) * len(self._tls.addresses if self._tls else ()))
        return max(1, self._most // each)

    @override
    def wanted(self) -> bool:
        return self._wanted()

    @override
    async def put(self, sandbox_ids: Sequence[SandboxId], *, left_out: int) -> None:
        if left_out:
            log.warning("names of sandboxes left out of the hosts file", count=left_out, path=str(self._path))
        await asyncio.to_thread(self._put, self._lines(sandbox_ids, left_out))

    def _lines(self, sandbox_ids: Sequence[SandboxId], left_out: int) -> list[str]:
        if self._tls is None:
            return []
        domain = self._tls.domain
        names = [f"api.{domain}", f"sandbox.{domain}"]
        names += [f"{port}-{one}.{domain}" for one in sandbox_ids for port in self._ports]
        lines = [f"{address} {name}" for name in names for address in self._tls.addresses]
        return [*lines, f"# {left_out} sandboxes of {domain} are left out"] if left_out else lines

    def _put(self, lines: Sequence[str]) -> None:
        domain = self._tls.domain if self._tls else ""

        def edit(content: bytes) -> bytes:
            # Asked again: nobody else undoes the wish from here on.
            if not self._wanted():
                return content
            taken = hosts_file.without_block(content, mark(self._home.id))
            if taken.changed:
                log.warning("somebody else has changed our block", path=str(self._path))
            return hosts_file.with_block(taken.content, mark(self._home.id), domain, lines)

        _change(edit, self._path)


class NamedSandboxes(SqliteSandboxes):
    """Sandboxes whose changes are told before the change is answered."""

    def __init__(
        self, database: Database, telling: Telling, changed: Callable[[Sandbox, Sandbox], Awaitable[None]]
    ) -> None:
        super().__init__(database, telling)
        self._changed = changed

    @override
    async def replace_sandbox(self, old: Sandbox, new: Sandbox) -> None:
        await super().replace_sandbox(old, new)
        await self._changed(old, new)


def take_out(home_id: str, done: Callable[[], None], path: Path = hosts_file.PATH) -> str:
    """
    Take the names out, and say what was there; *done* ends the wish for them.

    Raises:
        FailedPreconditionError: the file cannot be changed.
    """
    said = ""

    def edit(content: bytes) -> bytes:
        nonlocal said
        taken = hosts_file.without_block(content, mark(home_id))
        said = f"{path} has no names of ours any more; all else in it is as it was."
        if taken.changed:
            said = f"Somebody else has changed our block in {path}: our lines are out, theirs are left."
        elif not taken.found:
            said = f"Somebody else has taken our block out of {path}: left as it is."
        return taken.content

    if path.exists() and not path.is_symlink():
        _change(edit, path)
        told = said
        done()
        # A server that runs may have put them back before the wish ended.
        _change(edit, path)
        return told
    done()
    return f"Somebody else has replaced {path} since: left as it is."


def mark(home_id: str) -> str:
    """Mark the block of a home."""
    return f"Atoll {home_id}"


def _change(edit: Callable[[bytes], bytes], path: Path) -> None:
    try:
        hosts_file.change(edit, LOCK, path)
    except HostsFileError as error:
        raise FailedPreconditionError(
            f"Names cannot be kept in {path}: {error}", resolution=error.resolution
        ) from error
