"""Every test here also tells docs/compatibility.md which calls of E2B's clients work."""

import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox as Interpreter
from support import matrix
from support.home import ATOLL, Atoll, LiveHome

from atoll.server.domain.template import Template

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "compatibility"


@pytest.fixture(scope="session", autouse=True)
def recorder(worker_id: str) -> Iterator[matrix.Recorder]:
    """Watch the clients' calls; what they showed is in build/compatibility/ afterwards, a file a process."""
    for recording in matrix.recorded():
        yield recording
        recording.save(RESULTS / f"{worker_id}.json")


@pytest.fixture(scope="session")
def variables(home: LiveHome) -> dict[str, str]:
    """What ``atoll env`` tells a shell, beside what that has."""
    return {**os.environ, **home.exports}


@pytest.fixture(scope="session")
def atoll(variables: dict[str, str]) -> Atoll:
    """The command line, as a user of the home calls it."""

    def call(*args: str, data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([ATOLL, *args], input=data, capture_output=True, timeout=120, env=variables)

    return call


@pytest.fixture(scope="module")
def interpreter(interpreter_template: Template, client_options: dict[str, Any]) -> Iterator[Interpreter]:
    """A sandbox of the code interpreter, one for each file of tests."""
    live = Interpreter.create(timeout=1800, envs={"GIVEN": "by create"}, **client_options)
    yield live
    live.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    recording = getattr(item, "funcargs", {}).get("recorder")
    # A test whose fixtures fail is not called; what they did is not the next test's.
    if recording is not None and (report.when == "call" or (report.when == "setup" and not report.passed)):
        recording.test_ended(passed=report.passed)
    return report
