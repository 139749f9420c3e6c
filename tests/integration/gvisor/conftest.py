"""One host for each test: what a test breaks is its own."""

from collections.abc import AsyncIterator

import pytest
from support.gvisor import Host, gvisor_host


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """A home, slots, a template and a runtime."""
    async with gvisor_host() as made:
        yield made
