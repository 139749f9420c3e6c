"""The server's log: one JSON object a line in ``logs/server.log``, ours and the libraries' alike."""

import logging
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog
from typing_extensions import override

from atoll.server.domain.errors import InvalidArgumentError

# A busy server logs some hundred bytes for each sandbox: these hold some hundred thousand of them.
MOST_BYTES = 20 * 1024 * 1024
KEPT_FILES = 4
# What people see has no rotation, and a sandbox's root can cause warnings for ever: so many in a row,
# and then so many a minute, some 600 KB a day. All of them stand in the log.
MOST_WARNINGS_IN_A_ROW = 200
WARNINGS_A_MINUTE = 1

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


def set_up(file: Path, level: str) -> None:
    """
    Log to a file, and warnings to standard error too, where systemd and people look.

    Raises:
        InvalidArgumentError: there is no such level.
    """
    if level not in _LEVELS:
        raise InvalidArgumentError(
            f"log_level: there is no level {level!r}", resolution=f"Levels are {', '.join(_LEVELS)}."
        )
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
    to_file = RotatingFileHandler(file, maxBytes=MOST_BYTES, backupCount=KEPT_FILES)
    to_file.setFormatter(
        _formatter(
            shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        )
    )
    to_people = logging.StreamHandler()
    to_people.setLevel(logging.WARNING)
    to_people.addFilter(Pace(MOST_WARNINGS_IN_A_ROW, WARNINGS_A_MINUTE / 60))
    plain = structlog.dev.plain_traceback
    to_people.setFormatter(
        _formatter(shared, structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain))
    )
    logging.basicConfig(level=level.upper(), handlers=[to_file, to_people], force=True)
    # Each request of theirs is a line of ours already.
    for library in ("httpx", "httpcore", "alembic", "uvicorn.error"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _formatter(shared: list[Any], *last: Any) -> logging.Formatter:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(processors=[remove, *last], foreign_pre_chain=shared)
