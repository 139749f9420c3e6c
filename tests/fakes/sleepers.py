"""Sandboxes that are paused and come back, for tests of that."""

import asyncio
from datetime import timedelta

from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.sandbox import Sandbox, Status
from fakes.world import ALICE, World, wish

BOB = Actor(team_id=TeamId("others"), key_id="bob", key_name="bob")
MINUTE = timedelta(minutes=1)
MEMORY, FILES = CheckpointKind.MEMORY, CheckpointKind.FILES


async def started(world: World, control: Control, **changes: object) -> Sandbox:
    """Create a sandbox that has something to keep, in its memory and in its files."""
    sandbox = await control.create(ALICE, wish(**changes))
    world.runtime.remember(sandbox.id, "kept")
    return sandbox


async def asleep(world: World, control: Control, kind: CheckpointKind = MEMORY, **changes: object) -> Sandbox:
    """Do so, and pause it; returns what it was before."""
    sandbox = await started(world, control, **changes)
    await control.pausing.pause(ALICE, sandbox.id, kind)
    return sandbox


async def until(world: World, sandbox_id: SandboxId, status: Status) -> Sandbox:
    """Return the row once it says so."""
    async with asyncio.timeout(10):
        while (row := await world.store.get_sandbox(sandbox_id)).status is not status:
            await asyncio.sleep(0)
    return row
