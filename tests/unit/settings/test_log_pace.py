"""What people see of the log, when strangers cause warnings for ever."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from atoll.server.main.logs import MOST_WARNINGS_IN_A_ROW, Pace, set_up
from atoll.server.settings import ServerSettings

RECORD = logging.LogRecord("x", logging.WARNING, __file__, 1, "words", (), None)


def test_so_many_pass_in_a_row_and_then_so_many_in_a_time() -> None:
    now = 0.0
    pace = Pace(3, 1 / 60, clock=lambda: now)

    assert [pace.filter(RECORD) for _ in range(5)] == [True, True, True, False, False]
    now += 60
    assert [pace.filter(RECORD) for _ in range(2)] == [True, False]
    now += 100_000
    assert sum(pace.filter(RECORD) for _ in range(10)) == 3


def test_a_storm_of_warnings_stands_in_the_log_and_not_before_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    file = tmp_path / "server.log"
    set_up(file, ServerSettings())

    for _ in range(1000):
        logging.getLogger("x").warning("words")

    assert file.read_text().count("words") == 1000
    assert capsys.readouterr().err.count("words") == MOST_WARNINGS_IN_A_ROW


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root, configuration = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configuration)
