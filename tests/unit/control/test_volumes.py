"""Verbs of volumes: teams, tokens, and what an interrupted call leaves."""

from pathlib import Path

import pytest
from fakes.world import ALICE, World, wish

from atoll.server.control.requests import Actor, MountWish
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError, UnavailableError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.sandbox import Status
from atoll.server.domain.volume import check_paths

BOB = Actor(team_id=TeamId("others"), key_id="bob", key_name="bob")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_team_sees_its_own_only(world: World) -> None:
    async with world.server() as control:
        made = await control.volumes.create(ALICE, "one")

        assert await control.volumes.list(ALICE) == [made]
        assert await control.volumes.list(BOB) == []
        for call in (control.volumes.get, control.volumes.delete):
            with pytest.raises(NotFoundError):
                await call(BOB, made.id)
        with pytest.raises(NotFoundError, match="'one' not found"):
            await control.create(BOB, wish(volumes=(MountWish(name="one", path="/data"),)))


async def test_a_name_and_an_id_both_find_it_and_no_name_is_an_id(world: World) -> None:
    async with world.server() as control:
        made = await control.volumes.create(ALICE, "one")
        mounts = await control.volumes.mounts(
            ALICE, (MountWish(name="one", path="/a"), MountWish(name=made.id, path="/b"))
        )

        assert await control.volumes.find(ALICE, "one") == await control.volumes.find(ALICE, made.id) == made
        assert [(one.volume_id, one.name) for one in mounts] == [(made.id, "one")] * 2
        with pytest.raises(InvalidArgumentError, match="Invalid volume name"):
            await control.volumes.create(ALICE, made.id)
        for reference in ("one", made.id):
            with pytest.raises(NotFoundError):
                await control.volumes.find(BOB, reference)
        for reference in ("two", "", "\0", "../one", "v" + "0" * 20):
            with pytest.raises(NotFoundError):
                await control.volumes.find(ALICE, reference)


async def test_only_its_own_token_opens_it(world: World) -> None:
    async with world.server() as control:
        one, two = [await control.volumes.create(ALICE, name) for name in ("one", "two")]

        assert (await control.volumes.directory(one.id, control.volumes.token(one.id))).name == one.id
        for token in (control.volumes.token(two.id), "", "\udcff"):
            with pytest.raises(NotFoundError):
                await control.volumes.directory(one.id, token)
        with pytest.raises(InvalidArgumentError):
            await control.volumes.directory("../x", control.volumes.token(one.id))


async def test_one_that_cannot_be_made_is_not_there(world: World) -> None:
    async with world.server() as control:
        world.faults.fail("volume:make", UnavailableError("no"))
        with pytest.raises(UnavailableError):
            await control.volumes.create(ALICE, "one")

        assert await control.volumes.list(ALICE) == []
        assert (await control.volumes.create(ALICE, "one")).name == "one"


async def test_the_next_server_finishes_what_was_interrupted(world: World) -> None:
    async with world.server() as control:
        kept, deleted = [await control.volumes.create(ALICE, name) for name in ("kept", "deleted")]
        world.faults.fail("volume:remove", UnavailableError("no"))
        with pytest.raises(UnavailableError):
            await control.volumes.delete(ALICE, deleted.id)
        (world.directory / "volumes" / kept.id).rmdir()

    async with world.server() as control:
        await control.volumes.open()

        assert [path.name for path in (world.directory / "volumes").iterdir()] == [kept.id]


async def test_a_sandbox_whose_volume_went_meanwhile_does_not_start_half(world: World) -> None:
    async with world.server() as control:
        made = await control.volumes.create(ALICE, "one")
        sandbox = await control.create(ALICE, wish(volumes=(MountWish(name="one", path="/data"),)))

        assert [mount.volume_id for mount in sandbox.volumes] == [made.id]
        assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING


@pytest.mark.parametrize(
    "paths",
    [
        ["/a", "/a"],
        ["/a", "/a/b"],
        ["/a/b", "/a"],
        ["//a"],
        ["/a/"],
        ["/a\0"],
        [""],
        ["/usr/lib"],
        ["/" + "x" * 2000],
    ],
)
def test_places_that_will_not_do(paths: list[str]) -> None:
    with pytest.raises(InvalidArgumentError):
        check_paths(paths)


def test_places_that_do() -> None:
    check_paths(["/data", "/database", "/mnt/one", "/mnt/two", "/home/user/x"])
