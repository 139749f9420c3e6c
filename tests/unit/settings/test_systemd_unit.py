"""The systemd unit: what it calls when it stops, and how long that may take."""

import shlex
import subprocess
from pathlib import Path

import pytest

from atoll.server.settings import Settings

UNIT = Path(__file__).parents[3] / "deploy" / "systemd" / "atoll.service"
# What Python's start, opening the home and closing it take, on a busy machine.
SLACK_S = 15


def value(name: str) -> str:
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]
    return line.partition("=")[2]


def test_the_time_to_stop_holds_what_a_stop_takes() -> None:
    limits = Settings().sandboxes

    needed = (limits.park_timeout + limits.close_timeout).total_seconds() + SLACK_S

    assert needed <= float(value("TimeoutStopSec"))


@pytest.mark.parametrize(
    ("state", "parks"), [("stopping", True), ("running", False), ("degraded", False), ("", False)]
)
def test_it_parks_when_the_machine_goes_down_and_at_no_other_stop(
    tmp_path: Path, state: str, parks: bool
) -> None:
    for name, line in (("systemctl", f'echo "{state}"; exit 1'), ("atoll", f'echo "$@" >{tmp_path}/called')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    shell, option, script = shlex.split(value("ExecStopPost"))

    done = subprocess.run(
        [shell, option, script.replace("/usr/local/bin/atoll", str(tmp_path / "atoll"))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=False,
    )

    assert done.returncode == 0
    called = tmp_path / "called"
    assert (called.read_text() if called.exists() else "") == ("park\n" if parks else "")
