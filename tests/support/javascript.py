"""The released JavaScript clients, installed by the tests as their lock file says."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support import matrix

FOLDER = Path(__file__).parents[1] / "clients" / "js"
# What the clients ask for.
OLDEST_NODE = (20, 18, 1)
# What a file of tests may take.
MOST_S = 280


def environment(client_options: dict[str, Any]) -> dict[str, str]:
    """Tell the clients of a home, and of nothing else that this machine may know."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    return kept | {
        "E2B_API_KEY": client_options["api_key"],
        "E2B_API_URL": client_options["api_url"],
        "E2B_SANDBOX_URL": client_options["sandbox_url"],
        "E2B_VOLUME_API_URL": client_options["api_url"],
        "NO_COLOR": "1",
    }


def node() -> str:
    """Find Node; the test is skipped where there is none that is new enough."""
    program = shutil.which("node")
    if program is None or shutil.which("npm") is None:
        pytest.skip("no node and npm on PATH: the JavaScript clients are not tried")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", told)[:3])
    if version < OLDEST_NODE:
        pytest.skip(f"node is {told.strip()}; the JavaScript clients need {OLDEST_NODE}")
    return program


def install() -> None:
    """Install what the lock file names, unless it is there."""
    # Two runs in one checkout must not install at once.
    with (FOLDER / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted, done = lock.read(), FOLDER / "node_modules" / ".installed"
        if done.exists() and done.read_bytes() == wanted:
            return
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        result = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=280)
        assert result.returncode == 0, f"npm ci failed\n{result.stdout}\n{result.stderr}"
        done.write_bytes(wanted)


def version(package: str) -> str:
    """Read which version of a client is installed."""
    found: str = json.loads((FOLDER / "node_modules" / package / "package.json").read_text())["version"]
    return found


def examine(
    file: str,
    client_options: dict[str, Any],
    recorder: matrix.Recorder,
    extra: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """
    Run a file of tests of the clients, and tell docs/compatibility.md which calls it made.

    Args:
        file: its name in *FOLDER*.
        client_options: the home's, as the Python clients take them.
        recorder: learns how the calls ended.
        extra: what else the file finds in its environment.
    """
    program = node()
    install()
    with tempfile.TemporaryDirectory() as folder:
        watching = {
            "NODE_OPTIONS": f"--import={FOLDER / 'record.mjs'}",
            "ATOLL_CALLS": str(Path(folder) / "calls"),
        }
        done = subprocess.run(
            [program, "--test", "--test-reporter=tap", "--test-timeout=120000", file],
            cwd=FOLDER,
            env=environment(client_options) | watching | (extra or {}),
            capture_output=True,
            text=True,
            timeout=MOST_S,
        )
        for told in Path(folder).iterdir():
            _tell(recorder, json.loads(told.read_text()))
    return done


def _tell(recorder: matrix.Recorder, packages: dict[str, Any]) -> None:
    for package, calls in packages.items():
        client = f"npm {package} {version(package)}"
        recorder.knows(client, calls["all"])
        for call, outcome in calls["seen"].items():
            recorder.saw(client, call, outcome)
