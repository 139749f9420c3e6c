"""Real namespaces, interfaces and rules; plain processes take the place of sandboxes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.network import TestHome, World, network_home, world


@pytest.fixture(scope="module")
def outside() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
async def home(outside: World, tmp_path: Path) -> AsyncIterator[TestHome]:
    async with network_home(tmp_path) as made:
        yield made
