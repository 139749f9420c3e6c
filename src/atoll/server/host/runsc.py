"""
gVisor's program, runsc: one method for each sub-command that is used.

A sandbox inherits the descriptors of the ``run`` that made it, so nothing here reads ``run``'s output
through a pipe: the caller hands in descriptors that the sandbox may keep.
Every call has a time limit, since a call into a hung sandbox never returns; what ends a sandbox is not here:
its processes are killed from outside (cgroup_base.py), and its state is then only files.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from atoll.server.host.children import Child

log = structlog.get_logger(__name__)

# Of a failed command's output, this much goes into the error, and half as much of a crash's log.
MOST_OUTPUT = 4096
_CUT = b"\n[...]\n"
# What a killed runsc may take to be gone.
_KILLED_PATIENCE_S = 5.0
# One network namespace for all gofers of one root; runsc leaves its mount behind.
_NULL_NETNS = "null-netns"
_MNT_DETACH = 2


class RunscError(Exception):
    """runsc failed: the command, its exit code, how its words began and ended, and how a sentry crashed."""

    def __init__(self, argv: Sequence[str], code: int | None, output: str) -> None:
        outcome = f"exit code {code}" if code is not None else "no answer in time, killed"
        super().__init__(f"{shlex.join(argv)}: {outcome}\n{output.strip()}".strip())
        self.code = code
        self.output = output


class RunscTimeoutError(RunscError):
    """runsc did not end in time, and was killed."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """
    What one ``run`` needs.

    Attributes:
        bundle: the directory with config.json.
        overlay_directory: where the file of the root's upper layer is made, and unlinked at once.
        overlay_bytes: how large that layer may grow.
        stdout: the sandbox's first process inherits it; so it is not a pipe that is read to its end.
        stderr: as stdout, and runsc's own errors go there; readable and seekable.
        pid_file: gets the number of the process that isolates (the sentry).
        final_metrics: written by a sentry that ends in good order, and left empty by one that is killed.
        panic_log: gets the Go runtime's last words.
        command_log: gets runsc's warnings.
        image: a directory that ``checkpoint`` wrote (restore) or ``checkpoint_files`` (run); None: none.
    """

    bundle: Path
    overlay_directory: Path
    overlay_bytes: int
    stdout: int
    stderr: int
    pid_file: Path
    final_metrics: Path
    panic_log: Path
    command_log: Path
    image: Path | None = None


class Runsc:
    """One runsc program with one state directory."""

    def __init__(self, program: Path, root: Path, *, flags: Sequence[str] = ()) -> None:
        """
        Args:
            program: the executable.
            root: where runsc keeps its state; shared by the sandboxes of one home.
            flags: for every sub-command, "--network=sandbox" for one.
        """
        self.program = program
        self.root = root
        self._flags = tuple(flags)

    def of(self, program: Path) -> "Runsc":
        """The same, with another build of the program."""
        return Runsc(program, self.root, flags=self._flags)

    async def version(self, *, timeout_s: float) -> str:
        """
        Return what the program says of its version, "20260905.0"; "" when it says none.

        Raises:
            RunscError: it does not run.
        """
        argv = [str(self.program), "--version"]
        output = await self._communicate(argv, timeout_s)
        first = output.partition("\n")[0]
        return first.removeprefix("runsc version ").strip() if first.startswith("runsc version ") else ""

    async def run(self, container_id: str, options: RunOptions, *, timeout_s: float) -> None:
        """
        Create and start a sandbox; return when it runs, on its own.

        When this is cancelled or fails, whatever is there already stays: see remove_state.

        Raises:
            RunscError: it did not start.
            RunscTimeoutError: it took longer than ``timeout_s``.
        """
        image = [f"--fs-restore-image-path={options.image}"] if options.image else []
        await self._start("run", container_id, options, image, timeout_s)

    async def restore(self, container_id: str, options: RunOptions, *, timeout_s: float) -> None:
        """
        Make a sandbox that goes on where a checkpoint was taken; return when it runs, on its own.

        Errors as for ``run``. When it refuses an image, it has ended the sandbox.
        """
        await self._start("restore", container_id, options, [f"--image-path={options.image}"], timeout_s)

    async def _start(
        self, verb: str, container_id: str, options: RunOptions, more: Sequence[str], timeout_s: float
    ) -> None:
        overlay = f"root:dir={options.overlay_directory},size={options.overlay_bytes}"
        argv = [
            *self._argv(),
            f"--log={options.command_log}",
            f"--panic-log={options.panic_log}",
            f"--final-metrics-log={options.final_metrics}",
            f"--overlay2={overlay}",
            verb,
            "--detach",
            f"--pid-file={options.pid_file}",
            f"--bundle={options.bundle}",
            *more,
            container_id,
        ]
        child = self._spawn(argv, stdout=options.stdout, stderr=options.stderr)
        code = await _wait(child, timeout_s)
        if code != 0:
            # Of a sentry that crashed, runsc only knows that it does not answer.
            _fail(argv, code, "\n".join((_read_all(options.stderr), _beginning(options.panic_log))))

    async def pause(self, container_id: str, *, timeout_s: float) -> None:
        """
        Have all programs inside stand still; the network inside goes on.

        Raises:
            RunscError: it refused, or does not answer in time.
        """
        await self._communicate([*self._argv(), "pause", container_id], timeout_s)

    async def resume(self, container_id: str, *, timeout_s: float) -> None:
        """Undo ``pause``; errors as there, and when it does not stand still."""
        await self._communicate([*self._argv(), "resume", container_id], timeout_s)

    async def checkpoint(self, container_id: str, image: Path, *, timeout_s: float) -> None:
        """
        Write memory and files of a sandbox into a directory; then it goes on, or stands still as before.

        It always goes on, since runsc's other way ends a sandbox also when it could not be written. Nothing
        of it is on the disk yet when this returns, only in the host's cache of files: past it (``--direct``)
        programs stand still for three times as long, and it is on the disk later (benchmarks/README.md).

        Raises:
            RunscError: it could not be written; the sandbox is as it was.
            RunscTimeoutError: it took longer than ``timeout_s``; the sandbox may still write.
        """
        await self._save("checkpoint", container_id, image, ["--compression=none"], timeout_s)

    async def checkpoint_files(self, container_id: str, image: Path, *, timeout_s: float) -> None:
        """Write the files of a sandbox that lie over its root; else as ``checkpoint``."""
        await self._save("fscheckpoint", container_id, image, [], timeout_s)

    async def _save(
        self, verb: str, container_id: str, image: Path, more: Sequence[str], timeout_s: float
    ) -> None:
        argv = [*self._argv(), verb, f"--image-path={image}", "--leave-running", *more]
        await self._communicate([*argv, container_id], timeout_s)

    async def cpu_features(self, *, timeout_s: float) -> tuple[str, ...]:
        """
        List what this machine's processors can do, as far as it matters to a checkpoint.

        Raises:
            RunscError: the program does not run.
        """
        output = await self._communicate([str(self.program), "cpu-features"], timeout_s)
        return tuple(sorted(output.strip().split(",")))

    async def run_attached(self, container_id: str, *, bundle: Path, timeout_s: float) -> tuple[int, str]:
        """
        Run a sandbox to its end, reading what it writes; returns its exit code and output.

        Only for a sandbox that ends by itself; the sandbox ends with this call, cancelled or not.

        Raises:
            RunscTimeoutError: it took longer than ``timeout_s``.
        """
        argv = [*self._argv(), "run", f"--bundle={bundle}", container_id]
        with contextlib.closing(_Scratch()) as scratch:
            child = self._spawn(argv, stdout=scratch.fd, stderr=scratch.fd)
            code = await _wait(child, timeout_s)
            output = _read_all(scratch.fd)
        if code is None:
            _fail(argv, code, output)
        return code, output

    async def state(self, container_id: str, *, timeout_s: float) -> str:
        """
        Ask a sandbox how it is; its answer, as JSON, is proof that it is not hung.

        Raises:
            RunscError: there is none, or it does not answer in time.
        """
        return await self._communicate([*self._argv(), "state", container_id], timeout_s)

    def containers(self) -> set[str]:
        """List the ids of which files of state are there, running or not; asks no sandbox."""
        found = set[str]()
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.root):
                # Of a state, a lock or a control socket.
                if "_sandbox:" in entry.name:
                    found.add(entry.name.partition("_sandbox:")[0])
                elif entry.name.startswith("runsc-") and entry.name.endswith(".sock"):
                    found.add(entry.name[len("runsc-") : -len(".sock")])
        return found

    def remove_state(self, container_id: str) -> None:
        """Delete what runsc wrote about a sandbox whose processes are gone; a no-op for what is not there."""
        for name in (
            f"{container_id}_sandbox:{container_id}.state",
            f"{container_id}_sandbox:{container_id}.lock",
            f"runsc-{container_id}.sock",
        ):
            (self.root / name).unlink(missing_ok=True)

    def unmount_shared(self) -> None:
        """Undo the one mount that all sandboxes of this root share; gofers that use it keep it in memory."""
        path = self.root / _NULL_NETNS
        libc = ctypes.CDLL(None, use_errno=True)
        # Two starts at once can have mounted it twice.
        while libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
            log.debug("unmounted", path=str(path))
        if (number := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOENT):
            raise OSError(number, os.strerror(number), str(path))
        path.unlink(missing_ok=True)

    def _argv(self) -> list[str]:
        return [str(self.program), f"--root={self.root}", *self._flags]

    async def _communicate(self, argv: list[str], timeout_s: float) -> str:
        with contextlib.closing(_Scratch()) as scratch:
            child = self._spawn(argv, stdout=scratch.fd, stderr=scratch.fd)
            code = await _wait(child, timeout_s)
            output = _read_all(scratch.fd)
        if code != 0:
            _fail(argv, code, output)
        return output

    def _spawn(self, argv: list[str], *, stdout: int, stderr: int) -> Child:
        log.debug("run", command=shlex.join(argv))
        # Nothing that the server was started with is a sandbox's business, its environment least.
        environment = {"PATH": os.defpath, "HOME": "/root"}
        try:
            return Child(argv, stdout=stdout, stderr=stderr, environment=environment)
        except OSError as error:
            raise RunscError(argv, None, f"cannot be started: {error.strerror}") from error


class _Scratch:
    """A file without a name, for output."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("runsc-output", os.MFD_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)


async def _wait(child: Child, timeout_s: float) -> int | None:
    """Wait for the end, and kill at the time limit (None) or when cancelled."""
    try:
        async with asyncio.timeout(timeout_s):
            return await child.wait()
    except TimeoutError:
        return None
    finally:
        await child.end(patience_s=_KILLED_PATIENCE_S)


def _read_all(fd: int) -> str:
    # A file of a fixed size is a hole behind what was written; one of no size has none.
    size = os.lseek(fd, 0, os.SEEK_HOLE) if os.fstat(fd).st_size else 0
    if size <= MOST_OUTPUT:
        return _text(os.pread(fd, size, 0))
    # A crash inside says first what happened, then where, at length.
    half = (MOST_OUTPUT - len(_CUT)) // 2
    return _text(os.pread(fd, half, 0) + _CUT + os.pread(fd, half, size - half))


def _beginning(log: Path) -> str:
    try:
        with log.open("rb") as file:
            return _text(file.read(MOST_OUTPUT // 2))
    except OSError:
        return ""


def _text(output: bytes) -> str:
    # Where the disk was full, what could not be written is a hole.
    return output.replace(b"\0", b"").decode(errors="replace")


def _fail(argv: Sequence[str], code: int | None, output: str) -> NoReturn:
    raise (RunscTimeoutError if code is None else RunscError)(argv, code, output)
