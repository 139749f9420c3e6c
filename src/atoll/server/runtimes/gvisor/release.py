"""
Obtains runsc: the version that this Atoll is made for, pinned here and nowhere else.

A program on PATH that passes the check will do; else gVisor's release; else it is compiled from source.
What is installed stays at <directory>/<version>/runsc beside other versions: a snapshot belongs to its own.
A half-made one is never there: it is built beside, checked, and renamed, under a lock.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from atoll.server.domain.errors import UnavailableError
from atoll.server.host.runsc import RunscError
from atoll.server.host.threads import finish_in_thread
from atoll.server.runtimes.gvisor.release_check import check
from atoll.server.runtimes.gvisor.release_sources import compile_runsc, download_release
from atoll.server.runtimes.gvisor.steps import Progress, ReleaseError, Step, ignore

log = structlog.get_logger(__name__)

# Releases before 2026 refuse --network=sandbox on new kernels. Raising it needs a look at the helper programs
# that newer ones want beside runsc: `go install` does not make them.
GO_VERSION = "v0.0.0-20260905035102-160fafc42237"
# What it says of itself then: we tell it at compile time.
VERSION = "20260905.0-160fafc42237"
# gVisor's first release from that commit or later.
RELEASE = "20260907"

# Another process may be compiling: two minutes on two cores, ten on a slow machine.
_LOCK_TIMEOUT_S = 1800.0
_LOCK_AGAIN_S = 0.2


@dataclass(frozen=True, kw_only=True)
class _Source:
    name: str
    version: str
    make: Callable[[Path, Progress], Awaitable[None]]


class RunscRelease:
    """The runsc programs of one directory."""

    def __init__(self, directory: Path, *, probe: Path, path: str | None = None) -> None:
        """
        Args:
            directory: where versions are installed; made when needed.
            probe: a static program for the check's sandbox, which prints its version for "--version": guestd.
            path: where to look for a program that is there already; default: PATH.
        """
        self._directory = directory
        self._probe = probe
        self._path = path

    async def ensure(self, progress: Progress = ignore) -> Path:
        """
        Return a runsc that works on this machine, installing one if need be.

        Args:
            progress: told what is being done.

        Raises:
            UnavailableError: none could be had; details name each attempt.
        """
        program, attempts = await self._first_good(self._check_once)
        if program is not None:
            return program
        await finish_in_thread(self._directory.mkdir, parents=True, exist_ok=True)
        async with _locked(self._directory / ".lock"):
            for source in _SOURCES:
                try:
                    return await self._install(source, progress)
                except (ReleaseError, RunscError, OSError) as error:
                    log.info("no runsc from here", source=source.name, error=str(error))
                    attempts.append(f"{source.name}: {error}")
        raise UnavailableError(
            "runsc cannot be had",
            details="\n".join(attempts),
            resolution="install gVisor's runsc so that it is on PATH (https://gvisor.dev/docs/user_guide/install/)",
        )

    async def find(self) -> tuple[Path | None, list[str]]:
        """Return what works and is there already, or None, and why others do not; each is tried now."""
        return await self._first_good(lambda program: check(program, self._probe))

    def installed(self) -> dict[str, Path]:
        """List what is installed, by version."""
        return {path.parent.name: path for path in sorted(self._directory.glob("[!.]*/runsc"))}

    async def _first_good(self, tried: Callable[[Path], Awaitable[None]]) -> tuple[Path | None, list[str]]:
        failures: list[str] = []
        for program in self._present():
            try:
                await tried(program)
                return program, failures
            except (ReleaseError, RunscError) as error:
                failures.append(f"{program}: {error}")
        return None, failures

    def _present(self) -> Iterator[Path]:
        """Name what may do without installing: the pinned versions of ours, then what is on PATH."""
        for source in _SOURCES:
            if (program := self._directory / source.version / "runsc").exists():
                yield program
        if found := shutil.which("runsc", path=self._path):
            yield Path(found).resolve()

    async def _check_once(self, program: Path) -> None:
        """Check a program by running a sandbox, unless this very file passed on this very kernel."""
        mark = self._directory / f".checked-{program.parent.name}"
        stat = await asyncio.to_thread(program.stat)
        facts = f"{program} {stat.st_size} {stat.st_mtime_ns} {os.uname().release}"
        with contextlib.suppress(OSError):
            if mark.read_text() == facts:
                return
        await check(program, self._probe)
        await finish_in_thread(self._directory.mkdir, parents=True, exist_ok=True)
        await finish_in_thread(mark.write_text, facts)

    async def _install(self, source: _Source, progress: Progress) -> Path:
        target = self._directory / source.version
        program = target / "runsc"
        if not program.exists():
            new = Path(tempfile.mkdtemp(prefix=".installing-", dir=self._directory))
            try:
                await source.make(new, progress)
                progress(Step(text="checking runsc by running a sandbox"))
                await check(new / "runsc", self._probe)
                await finish_in_thread(_publish, new, target)
            finally:
                await finish_in_thread(shutil.rmtree, new, ignore_errors=True)
        await self._check_once(program)
        return program


async def _download(directory: Path, progress: Progress) -> None:
    await download_release(RELEASE, directory, progress)


async def _compile(directory: Path, progress: Progress) -> None:
    await compile_runsc(GO_VERSION, VERSION, directory, progress)


def _publish(new: Path, target: Path) -> None:
    # mkdtemp makes what only we may enter, and runsc's sandbox runs with few rights.
    new.chmod(0o755)
    new.rename(target)


_SOURCES = (
    _Source(name="gVisor's release", version=f"{RELEASE}.0", make=_download),
    _Source(name="go install", version=VERSION, make=_compile),
)


@contextlib.asynccontextmanager
async def _locked(file: Path) -> AsyncIterator[None]:
    """Hold a lock between processes; the kernel lets go of it when its holder dies."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(_LOCK_TIMEOUT_S):
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_AGAIN_S)
        yield
    finally:
        os.close(fd)
