"""
Which versions of runsc are on this machine, side by side, and which copies of guestd.

A checkpoint of memory is restored by the version that wrote it, and by no other: what it says of itself
counts, not what its directory is called.
"""

import asyncio
from pathlib import Path

import structlog

from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.host.runsc import Runsc, RunscError
from atoll.server.host.threads import finish_in_thread
from atoll.server.runtimes.gvisor.guestds import Guestds

log = structlog.get_logger(__name__)


class Programs:
    """Those of one home."""

    def __init__(self, *, runsc: Runsc, runscs: Path | None, guestds: Guestds, timeout_s: float) -> None:
        """
        Args:
            runsc: the program of today.
            runscs: where versions are side by side, ``<directory>/runsc``; None: there is only today's.
            guestds: copies of guestd.
            timeout_s: for asking one for its version.
        """
        self.guestds = guestds
        self._runsc = runsc
        self._runscs = runscs
        self._timeout_s = timeout_s
        # By what tells a file from the one that takes its place.
        self._versions: dict[tuple[Path, int, int], str] = {}
        self._turn = asyncio.Lock()

    async def today(self) -> str:
        """
        Return the version of today's runsc.

        Raises:
            RunscError: it does not run.
        """
        return await self._version(self._runsc.program)

    async def find(self, version: str) -> Path:
        """
        Return the runsc of a version.

        Raises:
            FailedPreconditionError: it is not on this machine.
            RunscError: today's does not run.
        """
        if version == await self.today():
            return self._runsc.program
        installed = await self.installed()
        if version in installed:
            return installed[version]
        raise FailedPreconditionError(
            f"runsc {version} is not on this machine",
            details=f"there are {', '.join(sorted({await self.today(), *installed}))}",
            resolution=f"put it at {self._runscs or self._runsc.program.parent}/<any name>/runsc",
        )

    async def installed(self) -> dict[str, Path]:
        """List those side by side, by version; what does not run is left out."""
        if self._runscs is None:
            return {}
        found = {}
        for path in await finish_in_thread(sorted, self._runscs.glob("[!.]*/runsc")):
            try:
                found[await self._version(path)] = path
            except (RunscError, OSError) as error:
                log.warning("a runsc that does not run", path=str(path), error=str(error))
        return found

    async def _version(self, program: Path) -> str:
        async with self._turn:
            stat = await finish_in_thread(program.stat)
            key = (program, stat.st_ino, stat.st_mtime_ns)
            if key not in self._versions:
                self._versions[key] = await self._runsc.of(program).version(timeout_s=self._timeout_s)
            return self._versions[key]
