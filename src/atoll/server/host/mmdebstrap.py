"""
mmdebstrap: makes a Debian root from packages; and commands inside such a root.

Both run in mount and process namespaces of their own that die with the caller, however it dies:
no mount is left in a half-made root, and no process goes on making it.
"""

import asyncio
import contextlib
import os
import shlex
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# setpriv has the kernel kill unshare when we die; unshare kills what it started.
_CONTAINED = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
_TAIL_LINES = 40
_LINE_BYTES = 64 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What mmdebstrap says when a step begins, and the part of the time that is then behind it
# (measured: a root of 900 MB on two cores).
_STEPS = (
    ("running apt-get update", "package lists", 0.02),
    ("downloading packages", "downloading", 0.1),
    ("extracting archives", "extracting", 0.2),
    ("installing essential", "installing", 0.3),
    ("installing remaining", "installing", 0.4),
    ("cleaning package lists", "cleaning", 0.95),
)

Step = Callable[[str, float], None]


class BuildToolError(Exception):
    """A program failed: its command, exit code and the end of what it said."""

    def __init__(self, argv: Sequence[str], code: int | None, tail: str) -> None:
        outcome = "did not end in time" if code is None else f"exit code {code}"
        super().__init__(f"{shlex.join(argv)}: {outcome}\n{tail}".strip())
        self.code = code
        self.tail = tail


@dataclass(frozen=True, kw_only=True)
class RootWish:
    """
    What to make.

    Attributes:
        suite: Debian's.
        packages: with all that they need.
        sources: apt's lines, one-line form.
        keyring: whom apt believes.
        exclude: paths that no package writes, now or later; shell patterns.
    """

    suite: str
    packages: tuple[str, ...]
    sources: tuple[str, ...]
    keyring: Path
    exclude: tuple[str, ...]


async def make_root(wish: RootWish, target: Path, *, step: Step, timeout_s: float) -> None:
    """
    Make a root in an empty directory.

    Raises:
        BuildToolError: it failed or took too long; the directory then holds rubbish.
    """
    argv = [
        *_CONTAINED,
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        "--variant=minbase",
        f"--include={','.join(wish.packages)}",
        f"--keyring={wish.keyring}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in wish.exclude),
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"',
        wish.suite,
        str(target),
        *wish.sources,
    ]

    def hear(line: str) -> None:
        for words, name, fraction in _STEPS:
            if words in line:
                step(name, fraction)

    await _run(argv, hear=hear, timeout_s=timeout_s, env={})


async def run_inside(root: Path, argv: Sequence[str], *, env: Mapping[str, str], timeout_s: float) -> None:
    """
    Run a command with a directory as its root.

    Raises:
        BuildToolError: it failed or took too long.
    """
    await _run([*_CONTAINED, "chroot", str(root), *argv], hear=_deaf, timeout_s=timeout_s, env=env)


def _deaf(_line: str) -> None:
    """Hear nothing."""


async def _run(
    argv: list[str], *, hear: Callable[[str], None], timeout_s: float, env: Mapping[str, str]
) -> None:
    log.debug("run", command=shlex.join(argv))
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **env},
        start_new_session=True,
        limit=_LINE_BYTES,
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        async with asyncio.timeout(timeout_s):
            assert process.stdout
            async for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                tail.append(line)
                hear(line)
            code: int | None = await process.wait()
    except TimeoutError:
        code = None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code != 0:
        raise BuildToolError(argv, code, "\n".join(tail))
