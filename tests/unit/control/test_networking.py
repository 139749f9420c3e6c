"""Changing what a running sandbox may reach."""

import json

import pytest
from fakes.world import ALICE, World, wish

from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError, UnavailableError
from atoll.server.domain.ids import SandboxId, TeamId

RULES = EgressPolicy(deny_out=("8.8.8.0/24",))


def machine_has(world: World, sandbox_id: SandboxId) -> object:
    return json.loads((world.directory / "machines" / sandbox_id / "egress").read_text())


async def test_the_row_and_the_machine_have_the_new_rules(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    changed = await control.set_egress(ALICE, sandbox.id, RULES)

    assert changed.egress == (await control.get(ALICE, sandbox.id)).egress == RULES
    assert machine_has(world, sandbox.id) == {"internet": True, "deny_out": ["8.8.8.0/24"]}
    assert world.edge.forgotten_egress == [sandbox.id]


async def test_the_edge_is_told_whose_address_it_is(control: Control) -> None:
    sandbox = await control.create(ALICE, wish(egress=RULES))
    assert sandbox.address is not None

    assert await control.egress_at(sandbox.address) == sandbox
    await control.kill(ALICE, sandbox.id)
    with pytest.raises(NotFoundError):
        await control.egress_at(sandbox.address)


async def test_wrong_rules_and_others_sandboxes_change_nothing(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    bob = Actor(team_id=TeamId("bob"), key_name="bob")

    with pytest.raises(InvalidArgumentError):
        await control.set_egress(ALICE, sandbox.id, EgressPolicy(deny_out=("x",)))
    with pytest.raises(NotFoundError):
        await control.set_egress(bob, sandbox.id, RULES)
    await control.kill(ALICE, sandbox.id)
    with pytest.raises(NotFoundError):
        await control.set_egress(ALICE, sandbox.id, RULES)

    assert "egress" not in world.faults.passed


async def test_what_a_killed_server_left_undone_is_done_by_the_next(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.faults.fail("egress", UnavailableError("the kernel refused"))
        with pytest.raises(UnavailableError):
            await control.set_egress(ALICE, sandbox.id, RULES)

    async with world.server():
        assert machine_has(world, sandbox.id) == {"internet": True, "deny_out": ["8.8.8.0/24"]}
