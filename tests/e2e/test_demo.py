"""``make demo``'s part that runs: examples/demo.py, start to end and given up in the middle."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from support.home import CACHE

from atoll.server.domain.template import Template

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def left() -> list[str]:
    homes = [str(path) for path in Path(tempfile.gettempdir()).glob("atoll-demo-*")]
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return homes + [line for line in lines if "atoll-demo-" in line]


@pytest.fixture
def demo(base_template: Template) -> list[str]:
    return [sys.executable, str(DEMO)]


ENV = {**os.environ, "ATOLL_CACHE_DIR": str(CACHE)}


def test_it_does_its_job_and_leaves_nothing(demo: list[str]) -> None:
    before = left()

    done = subprocess.run(demo, capture_output=True, text=True, timeout=280, env=ENV)

    assert done.returncode == 0, done.stderr
    assert "2880 rows" in done.stdout
    assert '"trend_per_month"' in done.stdout
    for step in ("start Atoll", "create a sandbox", "first command", "run the program", "take Atoll down"):
        assert f"  {step} " in done.stdout
    assert left() == before


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, "» create a sandbox"),
        (signal.SIGINT, "» run the program"),
        pytest.param(signal.SIGINT, "» start Atoll", marks=pytest.mark.heavy),
        pytest.param(signal.SIGTERM, "» start Atoll", marks=pytest.mark.heavy),
        pytest.param(signal.SIGINT, "» create a sandbox", marks=pytest.mark.heavy),
        pytest.param(signal.SIGTERM, "» run the program", marks=pytest.mark.heavy),
    ],
)
def test_given_up_in_the_middle_it_leaves_nothing(
    demo: list[str], moment: str, number: signal.Signals
) -> None:
    before = left()
    process = subprocess.Popen(demo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(moment):
            break

    process.send_signal(number)
    _, words = process.communicate(timeout=120)

    assert process.returncode == 128 + number, words
    assert left() == before
