"""What every unit test may rely on."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """Whatever a test made of the log goes with it: its streams are closed."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
