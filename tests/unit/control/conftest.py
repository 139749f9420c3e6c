"""A world with a server in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.world import World

from atoll.server.control.service import Control


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def control(world: World) -> AsyncIterator[Control]:
    async with world.server() as opened:
        yield opened
