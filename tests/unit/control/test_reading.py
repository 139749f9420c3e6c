"""What callers see of rows."""

import hashlib
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta

import pytest
from fakes.sleepers import MINUTE, asleep
from fakes.teams import add_teams
from fakes.world import ALICE, World, wish

from atoll.server.control.reach.finding import SignedFile
from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError
from atoll.server.domain.ids import TeamId, new_sandbox_id
from atoll.server.domain.sandbox import Status
from atoll.server.ports.store import Page, SandboxFilter
from atoll.server.runtimes.fake.templates import BASE

BOB = Actor(team_id=TeamId("others"), key_id="bob", key_name="bob")


async def test_teams_see_only_their_own(world: World, control: Control) -> None:
    await add_teams(world.database, BOB.team_id)
    mine = await control.create(ALICE, wish())
    theirs = await control.create(BOB, wish())
    everybody = SandboxFilter(team_id=BOB.team_id)

    assert [row.id for row in (await control.list(ALICE, everybody, Page())).sandboxes] == [mine.id]
    assert await control.count(ALICE, everybody) == 1
    for call in (control.get, control.usage, control.memory_kills):
        with pytest.raises(NotFoundError) as hidden:
            await call(ALICE, theirs.id)  # type: ignore[operator]
        missing = new_sandbox_id()
        with pytest.raises(NotFoundError) as absent:
            await call(ALICE, missing)  # type: ignore[operator]
        # The same words: nobody learns which ids exist.
        assert hidden.value.message.replace(theirs.id, missing) == absent.value.message


async def test_not_found_says_so_in_e2bs_words(control: Control) -> None:
    missing = new_sandbox_id()

    with pytest.raises(NotFoundError) as caught:
        await control.get(ALICE, missing)

    assert caught.value.message == f"Sandbox \"{missing}\" doesn't exist or you don't have access to it"


async def test_who_asks_too_much_of_his_own_paused_sandbox_hears_that_it_is_paused(
    world: World, control: Control
) -> None:
    sandbox = await asleep(world, control)

    for call in (control.set_timeout(ALICE, sandbox.id, MINUTE), control.usage(ALICE, sandbox.id)):
        with pytest.raises(NotFoundError, match="does not run: it is paused"):
            await call
    with pytest.raises(NotFoundError, match="doesn't exist"):
        await control.set_timeout(BOB, sandbox.id, MINUTE)


async def test_the_old_form_of_an_id_works_everywhere(control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    old = f"{sandbox.id}-12345678"

    assert (await control.get(ALICE, old)).id == sandbox.id
    assert (await control.routing.route(old)).address == sandbox.address
    assert (await control.set_timeout(ALICE, old, timedelta(minutes=1))).id == sandbox.id
    assert (await control.kill(ALICE, old)).id == sandbox.id


@pytest.mark.parametrize("bad", ["", "x", "i" * 20, "../../etc/passwd", "i" + "A" * 20, "a-b-c", "\0" * 21])
async def test_bad_ids_are_refused(control: Control, bad: str) -> None:
    for call in (
        control.get(ALICE, bad),
        control.kill(ALICE, bad),
        control.usage(ALICE, bad),
        control.routing.route(bad),
        control.set_timeout(ALICE, bad, timedelta(minutes=1)),
        control.refresh(ALICE, bad, timedelta(minutes=1)),
    ):
        with pytest.raises(InvalidArgumentError, match="Invalid sandbox ID"):
            await call


async def test_a_list_shows_what_is_there_unless_more_is_asked_for(control: Control) -> None:
    ended = await control.create(ALICE, wish())
    await control.kill(ALICE, ended.id)
    alive = await control.create(ALICE, wish())

    plain = await control.list(ALICE, SandboxFilter(), Page())
    killed = await control.list(ALICE, SandboxFilter(statuses=frozenset({Status.KILLED})), Page())

    assert [row.id for row in plain.sandboxes] == [alive.id]
    assert [row.id for row in killed.sandboxes] == [ended.id]
    assert await control.count(ALICE, SandboxFilter()) == 1


async def test_a_filter_by_template_reads_tags_as_a_create_does(control: Control) -> None:
    made = {(await control.create(ALICE, wish(template=name))).id for name in ("base", "base:latest")}

    async def listed(template: str) -> set[str]:
        found = await control.list(ALICE, SandboxFilter(template=template), Page())
        assert len(found.sandboxes) == await control.count(ALICE, SandboxFilter(template=template))
        return {row.id for row in found.sandboxes}

    for name in ("base", "base:latest", "base:default", f"{BASE.id}:default"):
        assert await listed(name) == made
    assert await listed("base:v2") == set()


async def test_pages_follow_each_other_and_the_last_one_says_so(world: World, control: Control) -> None:
    ids = []
    for _ in range(4):
        ids.append((await control.create(ALICE, wish())).id)
        world.clock.advance(timedelta(seconds=1))

    first = await control.list(ALICE, SandboxFilter(), Page(limit=2))
    second = await control.list(ALICE, SandboxFilter(), Page(limit=2, after=first.next))

    assert [row.id for row in (*first.sandboxes, *second.sandboxes)] == ids[::-1]
    assert first.next is not None
    assert second.next is None


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_1_to_1000_rows(control: Control, limit: int) -> None:
    with pytest.raises(InvalidArgumentError):
        await control.list(ALICE, SandboxFilter(), Page(limit=limit))


@pytest.mark.parametrize(
    "filter",
    [
        SandboxFilter(metadata=tuple((str(number), "") for number in range(65))),
        SandboxFilter(metadata=(("k", "\ud800"),)),
        SandboxFilter(template="x" * 5000),
        SandboxFilter(template="a\0"),
    ],
)
async def test_bad_filters_are_refused(control: Control, filter: SandboxFilter) -> None:
    with pytest.raises(InvalidArgumentError):
        await control.list(ALICE, filter, Page())
    with pytest.raises(InvalidArgumentError):
        await control.count(ALICE, filter)


async def test_only_running_sandboxes_have_a_route(control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    route = await control.routing.route(sandbox.id)

    assert (route.sandbox_id, route.address, route.status) == (
        sandbox.id,
        sandbox.address,
        Status.RUNNING,
    )
    await control.kill(ALICE, sandbox.id)
    with pytest.raises(NotFoundError):
        await control.routing.route(sandbox.id)


async def test_a_sandbox_is_found_by_its_token_while_it_runs(control: Control) -> None:
    sandboxes = [await control.create(ALICE, wish()) for _ in range(3)]
    token = control.access_token(sandboxes[1].id)

    assert (await control.routing.route_by_token(token)).sandbox_id == sandboxes[1].id
    for stranger in ("", "x", token.upper(), "ü" * 64, "\ud800"):
        with pytest.raises(NotFoundError):
            await control.routing.route_by_token(stranger)
    await control.kill(ALICE, sandboxes[1].id)
    with pytest.raises(NotFoundError):
        await control.routing.route_by_token(token)


async def test_a_sandbox_is_found_by_what_it_signed_and_nothing_else(control: Control) -> None:
    sandboxes = [await control.create(ALICE, wish()) for _ in range(3)]
    token = control.access_token(sandboxes[2].id)
    digest = hashlib.sha256(f"/a b:read:user:{token}:5".encode()).digest()
    signed = SignedFile(
        path="/a b",
        operation="read",
        user="user",
        expires="5",
        signature="v1_" + b64encode(digest).decode().rstrip("="),
    )

    assert (await control.routing.route_by_signature(signed)).sandbox_id == sandboxes[2].id
    for change in (
        {"path": "/a"}, {"operation": "write"}, {"user": ""}, {"expires": ""}, {"expires": "6"},
        {"signature": "v1_"}, {"signature": "\ud800"},
    ):  # fmt: skip
        with pytest.raises(NotFoundError):
            await control.routing.route_by_signature(replace(signed, **change))


async def test_usage_is_read_from_the_runtime(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    assert (await control.usage(ALICE, sandbox.id)).memory_bytes > 0
    world.runtime.end_unseen(sandbox.id)
    with pytest.raises(NotFoundError, match="doesn't exist"):
        await control.usage(ALICE, sandbox.id)


async def test_templates_are_listed_and_found(control: Control) -> None:
    assert list(await control.templates(ALICE)) == [BASE]
    assert await control.template(ALICE, "base") == BASE
    assert await control.template(ALICE, BASE.id) == BASE
    assert await control.template(ALICE, "base:latest") == BASE
    with pytest.raises(NotFoundError, match="tag 'v2' does not exist for template 'base'"):
        await control.template(ALICE, "base:v2")
