"""
mmdebstrap: makes a Debian root file system in a directory.

Nothing here knows what the files are for.
The program and all its children live in a process and a mount namespace of their own: they die with this
process, however it dies, and their mounts (/proc, /sys and /dev of the new root) are never seen outside.
"""

import asyncio
import contextlib
import re
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

Progress = Callable[[str, float], None]

# Of what mmdebstrap, apt and dpkg say, this much goes into an error.
MOST_LINES = 60
MOST_LINE = 400
# The longest line that is read; a longer one is no output of these programs.
_LINE_BYTES = 1 << 20
# What killed programs may take to be gone.
_KILLED_PATIENCE_S = 30.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MmdebstrapError(Exception):
    """mmdebstrap failed; ``output`` is the end of what it and its children said."""

    def __init__(self, argv: Sequence[str], outcome: str, output: str) -> None:
        super().__init__(f"{shlex.join(argv)}: {outcome}\n{output}".strip())
        self.outcome = outcome
        self.output = output


class MmdebstrapMissingError(MmdebstrapError):
    """mmdebstrap, or a program of util-linux that starts it, is not installed."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """
    What to make.

    Attributes:
        target: a directory that is empty or not there.
        suite: "trixie".
        variant: mmdebstrap's: "minbase", "apt", "essential" ...
        packages: installed beside what the variant has.
        sources: lines as in apt's sources.list, at least one.
        hooks: pairs of stage ("extract", "essential", "customize") and a command of the shell, which runs
            outside and gets the new root as "$1".
        apt_options: lines of apt.conf, kept in the new root.
        proxy: environment variables that name proxies.
    """

    target: Path
    suite: str
    variant: str
    packages: tuple[str, ...]
    sources: tuple[str, ...]
    hooks: tuple[tuple[str, str], ...] = ()
    apt_options: tuple[str, ...] = ()
    proxy: Mapping[str, str] = field(default_factory=dict)

    def argv(self) -> list[str]:
        """Return the command, without what holds it."""
        return [
            "mmdebstrap",
            # Its own lines and those of apt and dpkg, from which progress is read.
            "--verbose",
            "--format=directory",
            # The others map user ids, and files of other owners are no use to a runtime.
            "--mode=root",
            f"--variant={self.variant}",
            *([f"--include={','.join(self.packages)}"] if self.packages else []),
            *(f"--aptopt={line}" for line in self.apt_options),
            *(f"--{stage}-hook={command}" for stage, command in self.hooks),
            self.suite,
            str(self.target),
            *self.sources,
        ]


async def bootstrap(request: Bootstrap, *, progress: Progress | None = None, timeout_s: float) -> None:
    """
    Make a root file system; when this fails or is cancelled, what is there already stays.

    Args:
        request: what to make.
        progress: is told the phase and how much of everything is done, from 0 to 1.
        timeout_s: for all of it.

    Raises:
        MmdebstrapMissingError: the program is not installed.
        MmdebstrapError: it failed, or took too long.
    """
    argv = request.argv()
    # setpriv: dies with us. unshare: everything below dies with it, and mounts are its own.
    # Both ends are needed, since apt and dpkg outlive a killed mmdebstrap.
    holder = ["setpriv", "--pdeathsig=KILL", "--", "unshare", "--mount", "--pid", "--fork",
              "--kill-child=KILL", "--mount-proc", "--"]  # fmt: skip
    log.debug("mmdebstrap starts", command=shlex.join(argv))
    try:
        process = await asyncio.create_subprocess_exec(
            *holder,
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **request.proxy},
            limit=_LINE_BYTES,
        )
    except FileNotFoundError as exc:
        raise MmdebstrapMissingError(argv, "setpriv or unshare is missing", str(exc)) from exc
    tail: deque[str] = deque(maxlen=MOST_LINES)
    try:
        async with asyncio.timeout(timeout_s):
            await _read(process, tail, Meter(progress))
            code = await process.wait()
    except TimeoutError:
        raise MmdebstrapError(argv, f"killed after {timeout_s:.0f} s", "\n".join(tail)) from None
    finally:
        await _end(process)
    # setpriv and unshare say 127 when there is no such program.
    if code == 127:
        raise MmdebstrapMissingError(argv, "mmdebstrap is missing", "\n".join(tail))
    if code != 0:
        raise MmdebstrapError(argv, f"exit code {code}", "\n".join(tail))


async def _read(process: asyncio.subprocess.Process, tail: deque[str], meter: "Meter") -> None:
    assert process.stdout is not None
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            # Too long, and thrown away by the reader.
            continue
        if not line:
            return
        text = line.decode(errors="replace").rstrip()
        tail.append(text[:MOST_LINE])
        meter.read(text)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what still runs, and wait until nothing of it does."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    waiting = asyncio.ensure_future(process.wait())
    try:
        async with asyncio.timeout(_KILLED_PATIENCE_S):
            await asyncio.shield(waiting)
    except TimeoutError:
        log.warning("mmdebstrap does not end", pid=process.pid)


@dataclass(frozen=True)
class _Phase:
    name: str
    start: float
    end: float


# What starts a phase, and the share of the time that it takes; measured with the recipes of this project.
_PHASES = {
    "running apt-get update": _Phase("reading package lists", 0.0, 0.06),
    "downloading packages with apt": _Phase("downloading", 0.06, 0.12),
    "extracting archives": _Phase("unpacking the essential packages", 0.12, 0.16),
    "installing essential packages": _Phase("setting up the essential packages", 0.16, 0.3),
    "installing remaining packages": _Phase("installing packages", 0.3, 0.96),
    "cleaning package lists": _Phase("cleaning", 0.97, 1.0),
    "running --customize-hook": _Phase("setting up the machine", 0.96, 0.97),
}
_TOTAL = re.compile(r"^\d+ upgraded, (\d+) newly installed")
# A package is fetched, unpacked and set up; the figures are shares of its time.
_STEPS = (("Get:", 0.2), ("Unpacking ", 0.4), ("Setting up ", 0.4))


class Meter:
    """Reads progress from the lines of mmdebstrap, apt and dpkg; never goes back."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._phase = _Phase("starting", 0.0, 0.0)
        self._packages = 0
        self._done = 0.0
        self._told = -1.0

    def read(self, line: str) -> None:
        """Take in one line."""
        if line.startswith("I: "):
            self._next_phase(line[3:])
        elif match := _TOTAL.match(line):
            self._packages, self._done = int(match[1]), 0.0
        else:
            for start, share in _STEPS:
                if line.startswith(start):
                    self._done += share
                    self._tell()
                    return

    def _next_phase(self, text: str) -> None:
        for start, phase in _PHASES.items():
            if text.startswith(start):
                self._phase, self._packages, self._done = phase, 0, 0.0
                self._tell()

    def _tell(self) -> None:
        share = min(1.0, self._done / self._packages) if self._packages else 0.0
        fraction = max(self._told, self._phase.start + share * (self._phase.end - self._phase.start))
        if self._progress is None or (fraction == self._told and self._done):
            return
        self._told = fraction
        self._progress(self._phase.name, round(fraction, 4))
