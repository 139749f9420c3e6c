"""The command line against a small cloud whose sandboxes are processes and files of this machine."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fakes.live_cloud import LiveCloud, live_cloud

from atoll.cli.main import cli

ATOLL = [sys.executable, "-c", "from atoll.cli.main import main; main()"]


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveCloud]:
    root = tmp_path / "inside"
    root.mkdir()
    with live_cloud(root) as running:
        monkeypatch.setenv("ATOLL_API_URL", running.url)
        monkeypatch.setenv("ATOLL_API_KEY", running.options["api_key"])
        yield running


@pytest.fixture
def atoll(cloud: LiveCloud) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the command line as a process of its own: its file descriptors are what is tried."""

    def call(*args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        options.setdefault("input", b"")
        return subprocess.run(
            [*ATOLL, *args], capture_output=True, timeout=60, env=dict(os.environ), **options
        )

    return call


@pytest.fixture
def invoke(cloud: LiveCloud) -> Callable[..., Result]:
    """Run the command line in this process, errors included."""

    def call(*args: str) -> Result:
        return CliRunner().invoke(cli, list(args))

    return call
