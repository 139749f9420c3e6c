"""Logs do not grow without bound: neither the server's nor what standard error is."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.main.logs import LEAST_BYTES, set_up
from atoll.server.settings import ServerSettings

# Each warning has some 1,000 bytes, and 200 of them reach standard error.
CHATTY = """
import logging, os, sys
from pathlib import Path
from atoll.server.main.logs import set_up
from atoll.server.settings import ServerSettings
home = Path(sys.argv[1])
settings = ServerSettings(log_bytes=64 * 1024, log_files=1)
set_up(home / "server.log", settings, errors=home / "server.err")
for _ in range(1000):
    logging.getLogger("x").warning("w" * 1000)
os.write(2, b"last words")
"""


@pytest.fixture
def chatted(tmp_path: Path) -> Path:
    with (tmp_path / "server.err").open("ab") as errors:
        subprocess.run([sys.executable, "-c", CHATTY, str(tmp_path)], stderr=errors, check=True, timeout=60)
    return tmp_path


@pytest.mark.parametrize("name", ["server.log", "server.err"])
def test_a_log_and_what_is_kept_of_it_stay_below_their_bounds(chatted: Path, name: str) -> None:
    sizes = [path.stat().st_size for path in chatted.glob(f"{name}*")]

    assert len(sizes) == 2
    assert max(sizes) < 64 * 1024 + len("last words")
    assert sum(sizes) > 64 * 1024


def test_what_python_itself_says_is_in_the_newest_file(chatted: Path) -> None:
    assert (chatted / "server.err").read_bytes().endswith(b"last words")


def test_a_standard_error_that_is_no_such_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "server.err").write_text("somebody else's\n")

    done = subprocess.run(
        [sys.executable, "-c", CHATTY, str(tmp_path)], capture_output=True, check=True, timeout=60
    )

    assert done.stderr.count(b"w" * 1000) == 200
    assert (tmp_path / "server.err").read_text() == "somebody else's\n"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"log_bytes": LEAST_BYTES - 1}, "log_bytes"),
        ({"log_bytes": 0}, "log_bytes"),
        ({"log_files": 0}, "log_files"),
        ({"log_level": "loud"}, "log_level"),
    ],
)
def test_bounds_that_hold_nothing_are_refused(tmp_path: Path, changes: dict[str, int], word: str) -> None:
    before = logging.getLogger().handlers[:]

    with pytest.raises(InvalidArgumentError, match=word):
        set_up(tmp_path / "server.log", ServerSettings(**changes))  # type: ignore[arg-type]

    assert logging.getLogger().handlers == before
