"""What verbs that look after a server on this machine ask and do first. Imports no server."""

import contextlib
import importlib.util
import logging
import os
import select
import signal
import sys
from pathlib import Path

from atoll.sdk.errors import FailedPreconditionError, PermissionDeniedError

# Seconds that a server gets for its end: it waits for creates and kills under way.
_END_TIMEOUT = 120.0


def need_root(verb: str) -> None:
    """
    Refuse to go on as somebody else.

    Raises:
        PermissionDeniedError: we are not root.
    """
    if os.geteuid() != 0:
        raise PermissionDeniedError(
            f"`atoll {verb}` needs root: it makes network namespaces, control groups and firewall rules.",
            resolution=f"sudo atoll {verb}",
        )


def quieten() -> None:
    """Have what the server's parts log stay out of what people and programs read: that says it all."""
    with contextlib.suppress(ModuleNotFoundError):
        import structlog

        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


def need_server() -> None:
    """
    Refuse to go on where only the SDK is installed.

    Raises:
        FailedPreconditionError: the server's libraries are missing.
    """
    missing = [
        name
        for name in ("fastapi", "uvicorn", "sqlalchemy", "pyroute2")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        raise FailedPreconditionError(
            "The server is not installed here, only SDK and command line.",
            details=f"missing: {', '.join(missing)}",
            resolution="pip install 'atoll[server]'",
        )


def end_starting(home: Path) -> None:
    """End a server that has not got as far as its lock: nothing else knows of it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _serves(process, home):
                held = os.pidfd_open(int(process.name))
                try:
                    # Between the two the process may have ended, and its number be another's.
                    if _serves(process, home):
                        _end(held)
                finally:
                    os.close(held)


def _serves(process: Path, home: Path) -> bool:
    words = (process / "cmdline").read_bytes().split(b"\0")
    wanted = [b"atoll.server.main", b"serve", b"--home", os.fsencode(home)]
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))


def _end(held: int) -> None:
    for number, patience in ((signal.SIGTERM, _END_TIMEOUT), (signal.SIGKILL, 10.0)):
        signal.pidfd_send_signal(held, number)
        if select.select([held], [], [], patience)[0]:
            return
