"""An older released E2B client for Python against a real home, in an environment of its own."""

import fcntl
import os
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import pytest
from support.home import CACHE

FLOW = Path(__file__).with_name("e2b_core_flow.py")
# The last of those that check a key's form, create by v1, and speak Connect over httpcore.
OLDER = "2.45.1"


def environment_with(version: str) -> str:
    """Make an environment with that client, unless it is there; return its interpreter."""
    folder = CACHE / "clients" / f"python-e2b-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python, done = folder / "venv" / "bin" / "python", folder / "installed"
        if not done.exists():
            subprocess.run(
                [sys.executable, "-m", "venv", "--clear", folder / "venv"], check=True, timeout=120
            )
            command = [python, "-m", "pip", "install", "--quiet", f"e2b=={version}"]
            subprocess.run(command, check=True, timeout=280)
            done.touch()
    return str(python)


@pytest.mark.parametrize("version", [None, OLDER], ids=["the installed one", OLDER])
def test_the_client_is_content(version: str | None, client_options: dict[str, Any]) -> None:
    python = environment_with(version) if version else sys.executable
    environment = os.environ | {
        "E2B_API_KEY": client_options["api_key"],
        "E2B_API_URL": client_options["api_url"],
        "E2B_SANDBOX_URL": client_options["sandbox_url"],
    }

    done = subprocess.run(
        [python, FLOW], env=environment, capture_output=True, text=True, timeout=200, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"e2b {version or installed('e2b')} is content\n"
