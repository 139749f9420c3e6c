"""The server's log: one JSON object a line in ``logs/server.log``, ours and the libraries' alike."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog

from atoll.server.domain.errors import InvalidArgumentError

# A busy server logs some hundred bytes for each sandbox: these hold some hundred thousand of them.
MOST_BYTES = 20 * 1024 * 1024
KEPT_FILES = 4

_LEVELS = ("debug", "info", "warning", "error")


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
