"""Where programs that a test starts find modules: the tests' own, and those of the tree that is tested."""

import os
from pathlib import Path

import atoll

TESTS = Path(__file__).parents[1]
# Another tree's may be installed.
PYTHONPATH = os.pathsep.join((str(TESTS), str(Path(atoll.__file__).parents[1])))
