"""How a command's end becomes a number, whatever system the client runs on."""

import runpy
import signal

import pytest

from atoll._gen.process.process_pb import ProcessEvent
from atoll.sdk import wire

# As Linux has them, where commands run.
_ENDS = {
    "signal: hangup": 129,
    "signal: aborted (core dumped)": 134,
    "signal: bus error": 135,
    "signal: killed": 137,
    "signal: user defined signal 1": 138,
    "signal: segmentation fault (core dumped)": 139,
    "signal: user defined signal 2": 140,
    "signal: terminated": 143,
    "signal: cpu time limit exceeded": 152,
    "signal: signal 34": 162,
}


def ended(status: str) -> ProcessEvent.EndEvent:
    """What the daemon says of a command that a signal ended."""
    return ProcessEvent.EndEvent(exit_code=-1, status=status)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of signals as macOS has them; Windows has hardly any."""
    for name, number in {"SIGBUS": 10, "SIGUSR1": 30, "SIGUSR2": 31}.items():
        monkeypatch.setattr(signal, name, number)
    for name in ("SIGHUP", "SIGKILL", "SIGXCPU", "SIGXFSZ"):
        monkeypatch.delattr(signal, name)


@pytest.mark.usefixtures("elsewhere")
def test_a_signal_has_linuxs_number_on_every_system() -> None:
    exit_code = runpy.run_path(wire.__file__)["exit_code"]

    assert {status: exit_code(ended(status)) for status in _ENDS} == _ENDS


def test_an_exit_has_its_own_number_and_a_signal_that_nobody_knows_is_one_still() -> None:
    assert wire.exit_code(ProcessEvent.EndEvent(exited=True, exit_code=3, status="exit status 3")) == 3
    assert wire.exit_code(ended("signal: a new one")) == 128
