"""Programs that tests start run what is tested."""

import os
import subprocess
import sys

from support.sources import PYTHONPATH

import atoll


def test_a_program_that_a_test_starts_runs_the_sources_of_the_tree_that_is_tested() -> None:
    program = "import atoll, support; print(atoll.__file__)"

    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )

    assert found.stdout == f"{atoll.__file__}\n"
