"""``atoll template build``, as the error about a template that is not built tells people to do."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ATOLL = Path(sys.executable).parent / "atoll"
# Shared with other tests, so that what takes half a minute is built once.
CACHE = Path(os.environ.get("ATOLL_CACHE_DIR") or Path.home() / ".cache" / "atoll")


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="atb-") as directory:
        yield Path(directory)


def build(name: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ATOLL_CACHE_DIR": str(CACHE)}
    command = [ATOLL, "template", "build", name, "--home", home]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)


def test_a_recipe_is_built_and_its_id_printed_and_the_second_time_is_quick(home: Path) -> None:
    first, second = build("minimal", home), build("minimal", home)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert (CACHE / "templates" / first.stdout.strip() / "rootfs").is_dir()


def test_what_has_no_recipe_is_named(home: Path) -> None:
    done = build("no-such", home)

    assert done.returncode != 0
    assert "template 'no-such' not found" in done.stderr
