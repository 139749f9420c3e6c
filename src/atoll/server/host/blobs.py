"""
The program atoll-blobs: packs files of a directory into runs that are kept once, and back (dataplane/blobs).

One process for each call, that ends with it: a killed server leaves none behind, since the program ends when
its standard input does. Bytes never come here, secrets go through that input.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# What it may say: some files and figures. More is not its answer.
_MOST_ANSWER = 1024 * 1024
# What a killed one may take to be gone: it may hang in a write.
_KILLED_PATIENCE_S = 10.0
# Behind everybody else, for the processor and the disk; one thread at a time.
_LOW = ("nice", "-n", "19", "ionice", "-c", "3", "env", "GOMAXPROCS=1")


class BlobsError(Exception):
    """
    It failed.

    Attributes:
        kind: "damaged", "missing", "full", "gone", "denied", "busy", "unavailable", "timeout" or "internal".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class S3Bucket:
    """
    A bucket of S3, and who may use it.

    Attributes:
        endpoint: URL without a path.
        bucket: its name; it is there.
        region: "" when the server has none.
        prefix: what names of objects begin with.
        access_key: who uses it.
        secret_key: the proof.
        roots: file with authorities that may have signed the server's certificate; "": those of this host.
        timeout_s: for one call, which carries 128 KB at the most.
    """

    endpoint: str
    bucket: str
    region: str
    prefix: str
    access_key: str
    secret_key: str = field(repr=False)
    roots: str
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class BlobStore:
    """
    Where runs are kept.

    Attributes:
        directory: on this machine, for root only; runs are there unless there is a bucket, and the lock is.
        reserve_bytes: what stays free there.
        s3: the bucket.
    """

    directory: Path
    reserve_bytes: int
    s3: S3Bucket | None = None


@dataclass(frozen=True, kw_only=True)
class Packed:
    """
    What a pack did.

    Attributes:
        sums: SHA-256 of each file, hexadecimal, by name.
        runs: of all files.
        raw_bytes: size of all files.
        new_runs: of these, those that nobody else had.
        new_bytes: their size.
        put_bytes: what they take, compressed.
    """

    sums: Mapping[str, str]
    runs: int
    raw_bytes: int
    new_runs: int
    new_bytes: int
    put_bytes: int


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a store holds, and what of it was freed; sizes as they are kept."""

    kept_runs: int
    kept_bytes: int
    freed_runs: int
    freed_bytes: int


class BlobsProgram:
    """The program with one store."""

    def __init__(self, program: Path, store: BlobStore) -> None:
        self._program = program
        self.store = store

    async def pack(
        self,
        directory: Path,
        files: Sequence[tuple[str, int, str | None]],
        *,
        patience_s: float,
        timeout_s: float,
    ) -> Packed:
        """
        Put files into the store, behind everybody else, and write ``runs`` beside them: names of their runs.

        Args:
            directory: of the files.
            files: name, size in bytes, and SHA-256 if it is known.
            patience_s: how long to wait for a sweep.
            timeout_s: for all of it.

        Raises:
            BlobsError: nothing is written beside them.
        """
        wanted = [{"name": name, "size": size, "sha256": sha256 or ""} for name, size, sha256 in files]
        request = {"verb": "pack", "directory": str(directory), "files": wanted, "patience_s": patience_s}
        result = await self._call(request, low=True, timeout_s=timeout_s)
        sums = {file["name"]: file["sha256"] for file in result.pop("files") or []}
        return Packed(sums=sums, **result)

    async def unpack(self, directory: Path, names: Sequence[str], *, timeout_s: float) -> None:
        """
        Write files again, which ``runs`` beside them names; each is there as a whole or not at all.

        Raises:
            BlobsError: not all of them are.
        """
        request = {"verb": "unpack", "directory": str(directory), "names": list(names)}
        await self._call(request, low=False, timeout_s=timeout_s)

    async def sweep(self, directories: Path, *, dry: bool, patience_s: float, timeout_s: float) -> Swept:
        """
        Delete what no ``runs`` in a directory of ``directories`` names.

        Args:
            directories: those whose names begin with a dot are not looked at.
            dry: only count.
            patience_s: how long to wait for a pack.
            timeout_s: for all of it.

        Raises:
            BlobsError: what is left is deleted by the next one.
        """
        request = {"verb": "sweep", "directory": str(directories), "dry": dry, "patience_s": patience_s}
        return Swept(**await self._call(request, low=True, timeout_s=timeout_s))

    async def check(self, *, timeout_s: float) -> None:
        """
        Have the store answer.

        Raises:
            BlobsError: it does not, or does not let us.
        """
        await self._call({"verb": "check", "patience_s": timeout_s}, low=False, timeout_s=timeout_s)

    async def _call(self, request: Mapping[str, Any], *, low: bool, timeout_s: float) -> dict[str, Any]:
        store = self.store
        where = {
            "directory": str(store.directory),
            "reserve_bytes": store.reserve_bytes,
            "s3": asdict(store.s3) if store.s3 else None,
        }
        line = json.dumps({**request, "store": where}) + "\n"
        try:
            process = await asyncio.create_subprocess_exec(
                *(_LOW if low else ()),
                str(self._program),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            # No memory or descriptors for it now, say.
            raise BlobsError("unavailable", f"atoll-blobs cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(timeout_s):
                answer, said = await _answer(process, line.encode())
        except TimeoutError:
            raise BlobsError(
                "timeout", f"atoll-blobs {request['verb']}: no end in {timeout_s:.0f} s"
            ) from None
        finally:
            await _end(process)
        return _parse(answer, said, process.returncode)


async def _answer(process: asyncio.subprocess.Process, line: bytes) -> tuple[bytes, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(line)
        await process.stdin.drain()
    # Its input stays open: its end means that we are gone.
    answer, said = await asyncio.gather(
        _read(process.stdout, _MOST_ANSWER), _read(process.stderr, _MOST_ANSWER)
    )
    await process.wait()
    return answer, said


async def _read(stream: asyncio.StreamReader, most: int) -> bytes:
    content = b""
    while len(content) <= most and (chunk := await stream.read(64 * 1024)):
        content += chunk
    return content


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have it gone, whatever happened; whoever is cancelled waits for that."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILLED_PATIENCE_S):
                await process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _parse(answer: bytes, said: bytes, code: int | None) -> dict[str, Any]:
    try:
        content = json.loads(answer)
        if failure := content.get("failure"):
            raise BlobsError(failure["kind"], failure["message"])
        result: dict[str, Any] = content["result"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        words = said.decode(errors="replace")[-2000:]
        raise BlobsError("internal", f"atoll-blobs ended with {code}: {words}".strip()) from error
    return result
