"""No death of the server, at any point of its work, loses a byte of a paused sandbox."""

import pytest
from fakes.crashes import Points, life
from fakes.sleepers import FILES, MEMORY, MINUTE, asleep, started
from fakes.world import ALICE, World

from atoll.server.control.service import Control
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import Status
from atoll.server.ports.store import SandboxFilter
from atoll.server.runtimes.fake.faults import Faults

# More than the script here has; a test makes sure of it.
MOST_POINTS = 90


async def script(world: World, control: Control, told: dict[str, SandboxId]) -> None:
    """Create, pause, resume, pause, and kill another one that is paused."""
    sandbox = await started(world, control, timeout=10 * MINUTE)
    told["created"] = sandbox.id
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await control.pausing.connect(ALICE, sandbox.id, 10 * MINUTE)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    other = await asleep(world, control, FILES, timeout=10 * MINUTE)
    await control.kill(ALICE, other.id)
    told["killed"] = other.id


async def test_the_script_has_no_more_points_than_are_tried(world: World) -> None:
    points, told = Points(), dict[str, SandboxId]()

    await life(world, points, lambda control: script(world, control, told))

    assert set(told) == {"created", "killed"}
    assert 60 < points.count < MOST_POINTS, points.count


@pytest.mark.parametrize("point", range(1, MOST_POINTS))
async def test_a_server_that_dies_anywhere_loses_no_byte(world: World, point: int) -> None:
    told = dict[str, SandboxId]()

    await life(world, Points(point, Points.die), lambda control: script(world, control, told))

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()
        await world.assert_agreement()
        rows = await world.rows()
        if (created := told.get("created")) is not None:
            assert rows[created].status in (Status.RUNNING, Status.PAUSED)
            row, resumed = await control.pausing.connect(ALICE, created, MINUTE)
            assert world.runtime.recall(created) == ("kept", "kept")
            if resumed:
                assert world.guest.configurations[created].generation == row.generation
        if (killed := told.get("killed")) is not None:
            assert rows[killed].status is Status.KILLED
        await control.settled()
        await world.assert_agreement()
        assert await world.store.count_sandboxes(SandboxFilter(statuses=frozenset({Status.FAILED}))) <= 1
