"""Changing what a running sandbox may reach."""

import asyncio
import json

import pytest
from fakes.world import ALICE, LIMITS, World, turns, wish

from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.egress_proxy import EgressProxy
from atoll.server.domain.egress_rules import HeaderRule
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

    assert await control.routing.egress_at(sandbox.address) == sandbox
    await control.kill(ALICE, sandbox.id)
    with pytest.raises(NotFoundError):
        await control.routing.egress_at(sandbox.address)


async def test_wrong_rules_and_others_sandboxes_change_nothing(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    bob = Actor(team_id=TeamId("bob"), key_id="bob", key_name="bob")

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


async def test_rules_that_the_host_refuses_are_tried_again_until_it_takes_them(world: World) -> None:
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.faults.fail("egress", UnavailableError("the kernel refused"), times=2)
        with pytest.raises(UnavailableError, match="not applied yet"):
            await control.set_egress(ALICE, sandbox.id, RULES)
        for delay in (LIMITS.destroy_retry_delay, 2 * LIMITS.destroy_retry_delay):
            await world.clock.slept_until(world.clock.now() + delay)
            world.clock.advance(delay)
        await control.settled()

        assert machine_has(world, sandbox.id) == {"internet": True, "deny_out": ["8.8.8.0/24"]}
        assert world.edge.forgotten_egress == [sandbox.id]


async def test_rules_that_the_edge_does_not_hear_of_are_tried_again(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    world.faults.fail("forget egress", RuntimeError("a surprise"))
    with pytest.raises(UnavailableError):
        await control.set_egress(ALICE, sandbox.id, RULES)
    await world.clock.slept_until(world.clock.now() + LIMITS.destroy_retry_delay)
    world.clock.advance(LIMITS.destroy_retry_delay)
    await control.settled()

    assert world.edge.forgotten_egress == [sandbox.id]


async def test_rules_are_applied_when_their_caller_goes_away(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    call = asyncio.ensure_future(control.set_egress(ALICE, sandbox.id, RULES))
    await world.faults.reached("egress")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await control.settled()

    assert machine_has(world, sandbox.id) == {"internet": True, "deny_out": ["8.8.8.0/24"]}
    assert world.edge.forgotten_egress == [sandbox.id]


async def test_nobody_tries_again_for_a_sandbox_that_ended(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    world.faults.fail("egress", UnavailableError("the kernel refused"), times=100)
    with pytest.raises(UnavailableError):
        await control.set_egress(ALICE, sandbox.id, RULES)
    await control.kill(ALICE, sandbox.id)
    world.clock.advance(LIMITS.destroy_retry_delay)
    await control.settled()
    await turns()

    assert world.faults.passed["egress"] == 1


RULED = EgressPolicy(rules=(HeaderRule(domain="a.example", headers=(("X-A", "s3cret"),)),))
PROXIED = EgressPolicy(proxy=EgressProxy(address="p:1080", username="u", password="s3cret"))


async def test_only_sandboxes_with_rules_are_told_to_trust_the_edge(world: World, control: Control) -> None:
    plain, ruled = await control.create(ALICE, wish()), await control.create(ALICE, wish(egress=RULED))
    assert world.guest.trusting == {ruled.id}

    await control.set_egress(ALICE, plain.id, RULED)
    assert world.guest.trusting == {plain.id, ruled.id}


async def test_the_machine_is_not_told_what_is_secret(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    for policy in (RULED, PROXIED):
        row = await control.set_egress(ALICE, sandbox.id, policy)
        assert row.egress == policy
        assert "s3cret" not in json.dumps(machine_has(world, sandbox.id))


async def test_a_guest_that_does_not_trust_the_edge_gets_its_rules_all_the_same(
    world: World, control: Control
) -> None:
    sandbox = await control.create(ALICE, wish())
    world.faults.fail("trust", UnavailableError("the guest refused"))
    with pytest.raises(UnavailableError, match="does not trust"):
        await control.set_egress(ALICE, sandbox.id, RULED)

    assert (await control.get(ALICE, sandbox.id)).egress == RULED
    assert machine_has(world, sandbox.id) == {
        "internet": True,
        "rules": [{"domain": "a.example", "headers": {}}],
    }


async def test_a_create_whose_guest_does_not_trust_the_edge_fails(world: World, control: Control) -> None:
    world.faults.fail("trust", UnavailableError("the guest refused"))
    with pytest.raises(UnavailableError):
        await control.create(ALICE, wish(egress=RULED))
    await control.settled()
    await world.assert_agreement()


async def test_what_is_secret_goes_with_the_sandbox(world: World, control: Control) -> None:
    for policy in (RULED, PROXIED):
        sandbox = await control.create(ALICE, wish(egress=policy))
        await control.kill(ALICE, sandbox.id)

        ended = await control.get(ALICE, sandbox.id, ended=True)
        assert ended.egress == policy.fenced()


async def test_a_proxy_where_none_may_be_is_refused_before_anything_is_done(
    world: World, control: Control
) -> None:
    world.faults.fail("check proxy", InvalidArgumentError("not there"), times=2)
    with pytest.raises(InvalidArgumentError):
        await control.create(ALICE, wish(egress=PROXIED))
    sandbox = await control.create(ALICE, wish())
    with pytest.raises(InvalidArgumentError):
        await control.set_egress(ALICE, sandbox.id, PROXIED)

    assert len(await world.rows()) == 1
    assert (await control.get(ALICE, sandbox.id)).egress == EgressPolicy()
