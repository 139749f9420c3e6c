"""
The server's log: one JSON object a line in ``logs/server.log``, ours and the libraries' alike.

Nothing that is written here grows without bound; the edge keeps its own log bounded, since it outlives us.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog
from typing_extensions import override

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.settings import ServerSettings

# Less holds no traceback, and is renamed all the time.
LEAST_BYTES = 64 * 1024
# What people see, a terminal or systemd may keep for ever, and a sandbox's root can cause warnings for ever:
# so many in a row, and then so many a minute, some 600 KB a day. All of them stand in the log.
MOST_WARNINGS_IN_A_ROW = 200
WARNINGS_A_MINUTE = 1

_STANDARD_ERROR = 2
_LEVELS = ("debug", "info", "warning", "error")


class Pace(logging.Filter):
    """Lets so many records through in a row, and then so many a second."""

    def __init__(self, most: int, a_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            most: in a row, after silence.
            a_second: in the long run.
            clock: seconds.
        """
        super().__init__()
        self._most = most
        self._a_second = a_second
        self._clock = clock
        self._left = float(most)
        self._last = clock()

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._last) * self._a_second)
        self._last = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class LogFile(RotatingFileHandler):
    """Says nothing where it cannot write, to a full disk say: that would be pages amidst what matters."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class StandardErrorFile(LogFile):
    """Keeps the file bounded that standard error is; what Python itself says there goes to the newest one."""

    @override
    def doRollover(self) -> None:
        super().doRollover()
        assert self.stream is not None, "opened again by then"
        os.dup2(self.stream.fileno(), _STANDARD_ERROR)


def set_up(file: Path, settings: ServerSettings, *, errors: Path | None = None) -> None:
    """
    Log to a file, and warnings to standard error too, where systemd and people look.

    Args:
        file: the log.
        settings: its level, and the bounds of all logs.
        errors: the file that standard error may be; when it is, it has the same bounds.

    Raises:
        InvalidArgumentError: there is no such level, or the bounds hold nothing.
    """
    _check(settings)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    bounds: dict[str, Any] = {"maxBytes": settings.log_bytes, "backupCount": settings.log_files}
    to_file = LogFile(file, **bounds)
    to_file.setFormatter(
        _formatter(
            shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        )
    )
    to_people: logging.Handler = logging.StreamHandler()
    if errors is not None and _is_standard_error(errors):
        to_people = StandardErrorFile(errors, **bounds)
    to_people.setLevel(logging.WARNING)
    to_people.addFilter(Pace(MOST_WARNINGS_IN_A_ROW, WARNINGS_A_MINUTE / 60))
    plain = structlog.dev.plain_traceback
    to_people.setFormatter(
        _formatter(shared, structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain))
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[to_file, to_people], force=True)
    # Each request of theirs is a line of ours already.
    for library in ("httpx", "httpcore", "alembic", "uvicorn.error"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _check(settings: ServerSettings) -> None:
    if settings.log_level not in _LEVELS:
        raise InvalidArgumentError(
            f"log_level: there is no level {settings.log_level!r}",
            resolution=f"Levels are {', '.join(_LEVELS)}.",
        )
    if settings.log_bytes < LEAST_BYTES:
        raise InvalidArgumentError(f"log_bytes: a log has at least {LEAST_BYTES} bytes")
    if settings.log_files < 1:
        raise InvalidArgumentError("log_files: at least one older file is kept")


def _is_standard_error(file: Path) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(_STANDARD_ERROR))
    except OSError:
        return False


def _formatter(shared: list[Any], *last: Any) -> logging.Formatter:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(processors=[remove, *last], foreign_pre_chain=shared)
