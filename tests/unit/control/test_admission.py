"""Turns are taken in order, teams in turn, and none is lost."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import pytest
from fakes.world import outcome, turns

from atoll.server.control.turns.admission import Admission, Urgency
from atoll.server.control.turns.locks import Locks
from atoll.server.domain.errors import Reason, ResourceExhaustedError
from atoll.server.domain.ids import SandboxId, TeamId

A, B, C = TeamId("a"), TeamId("b"), TeamId("c")


def admission(at_once: int = 1, most_waiting: int = 10, reserved: int = 0) -> Admission:
    return Admission(
        at_once=at_once, most_waiting=most_waiting, longest_wait=timedelta(seconds=20), reserved=reserved
    )


async def test_a_burst_of_one_team_does_not_starve_another() -> None:
    door = admission()
    order: list[str] = []

    async def work(team: TeamId, name: str) -> None:
        async with door.turn(team):
            order.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(work(A, f"a{number}"))
        await turns(1)
        for number in range(2):
            group.create_task(work(B, f"b{number}"))

    assert order == ["a0", "a1", "a2", "b0", "a3", "b1"]


async def test_never_more_than_so_many_at_once_and_each_gets_its_turn() -> None:
    door = admission(at_once=3, most_waiting=100)
    inside, most, done = 0, 0, 0

    async def work(number: int) -> None:
        nonlocal inside, most, done
        async with door.turn(A if number % 2 else B):
            inside += 1
            most = max(most, inside)
            await turns(number % 4)
            inside -= 1
            done += 1

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(work(number))

    assert (most, done, door.waiting) == (3, 50, 0)


@pytest.mark.parametrize("moment", range(8))
async def test_a_cancelled_wait_loses_no_turn(moment: int) -> None:
    door = admission()

    async def work() -> None:
        async with door.turn(A):
            await turns(2)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work()) for _ in range(3)]
        await turns(moment)
        tasks[1].cancel()
    async with asyncio.timeout(5), door.turn(B):
        assert door.waiting == 0


async def test_a_full_queue_refuses_and_still_serves_those_in_it() -> None:
    door = admission(most_waiting=1)
    async with asyncio.TaskGroup() as group:
        async with door.turn(A):

            async def wait() -> None:
                async with door.turn(A):
                    pass

            waiting = group.create_task(wait())
            await turns(1)
            with pytest.raises(ResourceExhaustedError, match="1 wait already") as caught:
                async with door.turn(B):
                    pass
            assert caught.value.reason is Reason.NO_ROOM
        await waiting


async def test_what_a_request_is_held_up_by_has_places_of_its_own() -> None:
    door = admission(most_waiting=1)
    order: list[str] = []

    async def work(name: str, urgent: bool = False) -> None:
        async with door.turn(A, Urgency(urgent)):
            order.append(name)

    async with asyncio.TaskGroup() as group, door.turn(A):
        group.create_task(work("create"))
        await turns(1)
        group.create_task(work("wake", urgent=True))
        await turns(1)
        with pytest.raises(ResourceExhaustedError, match="1 wait already"):
            await work("one wake too many", urgent=True)

    assert order == ["wake", "create"]


async def test_a_team_that_fills_the_queue_makes_room_for_one_that_has_less_there() -> None:
    door = admission(most_waiting=4)
    told: list[str] = []

    async def work(team: TeamId, name: str) -> None:
        try:
            async with door.turn(team):
                told.append(name)
        except ResourceExhaustedError:
            told.append(f"{name} refused")

    async with asyncio.TaskGroup() as group, door.turn(A):
        for number in range(5):
            group.create_task(work(A, f"a{number}"))
        await turns(1)
        for number in range(3):
            group.create_task(work(B, f"b{number}"))
            await turns(1)

    # The newest go, until both have as many; then nobody makes room for anybody.
    assert told == ["a4 refused", "a3 refused", "a2 refused", "b2 refused", "a0", "b0", "a1", "b1"]
    async with asyncio.timeout(5), door.turn(B):
        assert door.waiting == 0


async def test_one_that_leaves_as_it_is_to_make_room_loses_no_turn() -> None:
    door = admission(most_waiting=2)

    async with asyncio.TaskGroup() as group:
        async with door.turn(A):
            waiting = [asyncio.create_task(_pass(door.turn(A))) for _ in range(2)]
            await turns(1)
            waiting[1].cancel()
            group.create_task(_pass(door.turn(B)))
            await turns(1)
        await asyncio.wait(waiting)

    assert [one.cancelled() for one in waiting] == [False, True]
    async with asyncio.timeout(5), door.turn(A):
        assert door.waiting == 0


async def test_locks_are_per_sandbox_and_leave_no_memory() -> None:
    locks = Locks()
    one, other = SandboxId("one"), SandboxId("other")
    order: list[str] = []

    async def work(sandbox_id: SandboxId, name: str) -> None:
        async with locks.hold(sandbox_id):
            order.append(f"{name} in")
            await turns(3)
            order.append(f"{name} out")

    async with asyncio.TaskGroup() as group:
        group.create_task(work(one, "a"))
        group.create_task(work(one, "b"))
        given_up = group.create_task(work(one, "c"))
        group.create_task(work(other, "z"))
        await turns(1)
        assert len(locks) == 2
        given_up.cancel()

    assert [step for step in order if step[0] != "z"] == ["a in", "a out", "b in", "b out"]
    assert order.index("z in") < order.index("a out")
    assert len(locks) == 0


async def test_what_a_request_is_held_up_by_comes_before_all_others() -> None:
    door = admission()
    order: list[str] = []

    async def work(name: str, urgent: bool) -> None:
        async with door.turn(A, Urgency(urgent)):
            order.append(name)

    async with asyncio.TaskGroup() as group, door.turn(B):
        group.create_task(work("first", False))
        group.create_task(work("second", False))
        await turns(1)
        group.create_task(work("wake", True))
        await turns(1)
        assert door.waiting == 3

    assert order == ["wake", "first", "second"]


async def order_of(door: Admission, *hurried: str) -> list[str]:
    """Have two teams wait for turns, three and two of them, and hurry some; tell who had his when."""
    order: list[str] = []
    urgencies = {name: Urgency() for name in ("a0", "a1", "a2", "b0", "b1")}

    async def work(team: TeamId, name: str) -> None:
        async with door.turn(team, urgencies[name]):
            order.append(name)

    async with asyncio.TaskGroup() as group, door.turn(A):
        for name in urgencies:
            group.create_task(work(A if name.startswith("a") else B, name))
        await turns(1)
        for name in hurried:
            urgencies[name].rise()
        assert door.waiting == 5
    return order


async def test_what_a_request_comes_to_be_held_up_by_goes_before_all_others() -> None:
    assert await order_of(admission()) == ["a0", "b0", "a1", "b1", "a2"]

    # The others take turns as before, without it.
    assert await order_of(admission(), "a2") == ["a2", "a0", "b0", "a1", "b1"]
    assert await order_of(admission(), "b1", "a1") == ["b1", "a1", "a0", "b0", "a2"]
    assert await order_of(admission(), "b0", "b1", "b0") == ["b0", "b1", "a0", "a1", "a2"]


async def test_what_finds_no_place_before_the_others_keeps_its_own_until_there_is_one() -> None:
    door = admission(most_waiting=2)
    order: list[str] = []
    late = Urgency()

    async def work(name: str, urgency: Urgency) -> None:
        async with door.turn(A, urgency):
            order.append(name)
            late.rise()

    async with asyncio.TaskGroup() as group, door.turn(A):
        for number in range(2):
            group.create_task(work(f"wake {number}", Urgency(True)))
        group.create_task(work("create", Urgency()))
        group.create_task(work("late", late))
        await turns(1)
        late.rise()

    assert order == ["wake 0", "wake 1", "late", "create"]


@pytest.mark.parametrize("leaves", [False, True])
async def test_what_found_no_place_before_the_others_gets_the_next_that_is_free(leaves: bool) -> None:
    door = admission(most_waiting=3)
    order: list[str] = []
    first, second = Urgency(), Urgency()

    async def work(name: str, urgency: Urgency) -> None:
        async with door.turn(A, urgency):
            order.append(name)

    async with asyncio.TaskGroup() as group, door.turn(A):
        wakes = [group.create_task(work(f"wake {number}", Urgency(True))) for number in range(3)]
        for name, urgency in (("create", Urgency()), ("second", second), ("first", first)):
            group.create_task(work(name, urgency))
        await turns(1)
        # No place is free, and nobody says so again.
        for urgency in (first, second, first):
            urgency.rise()
        if leaves:
            wakes[1].cancel()
        await turns()
        assert door.waiting == (5 if leaves else 6)

    expected = ["wake 0", "wake 1", "wake 2", "first", "second", "create"]
    if leaves:
        expected.remove("wake 1")
    assert order == expected
    async with asyncio.timeout(5), door.turn(B):
        assert door.waiting == 0


async def test_what_is_urgent_before_it_waits_goes_first_and_afterwards_nothing_happens() -> None:
    door = admission()
    order: list[str] = []
    urgency = Urgency()
    urgency.rise()

    async def work(name: str, urgency: Urgency) -> None:
        async with door.turn(A, urgency):
            order.append(name)
            urgency.rise()
            await turns(1)

    async with asyncio.TaskGroup() as group, door.turn(A):
        group.create_task(work("create", Urgency()))
        group.create_task(work("wake", urgency))
        await turns(1)

    urgency.rise()
    assert order == ["wake", "create"]
    assert door.waiting == 0
    async with asyncio.timeout(5), door.turn(B):
        pass


@pytest.mark.parametrize("moment", range(8))
async def test_one_that_is_moved_forward_and_leaves_loses_no_turn(moment: int) -> None:
    door = admission()
    urgency = Urgency()

    async def work() -> None:
        async with door.turn(A, urgency):
            await turns(2)

    async with asyncio.TaskGroup() as group:
        group.create_task(_pass(door.turn(A)))
        moved = group.create_task(work())
        group.create_task(_pass(door.turn(B)))
        await turns(moment)
        urgency.rise()
        moved.cancel()
    async with asyncio.timeout(5), door.turn(B):
        assert door.waiting == 0


async def test_one_that_made_room_is_not_moved_forward() -> None:
    door = admission(most_waiting=2)
    urgency = Urgency()

    async with asyncio.TaskGroup() as group, door.turn(A):
        waiting = group.create_task(_pass(door.turn(A)))
        refused = group.create_task(outcome(_pass(door.turn(A, urgency))))
        await turns(1)
        other = group.create_task(_pass(door.turn(B)))
        await asyncio.sleep(0)
        urgency.rise()
        await turns(1)
        assert door.waiting == 2

    assert isinstance(refused.result(), ResourceExhaustedError)
    assert waiting.done()
    assert other.done()


async def test_spare_turns_are_had_only_while_nobody_wants_one() -> None:
    door = admission(at_once=4)
    order: list[str] = []

    async def refill() -> None:
        async with door.spare():
            order.append("spare")

    async with asyncio.TaskGroup() as group:
        with door.wanted():
            group.create_task(refill())
            async with door.turn(A):
                await turns(3)
                order.append("create")
            await turns(3)
            order.append("claim")

    assert order == ["create", "claim", "spare"]


async def test_what_waits_for_a_guest_keeps_what_is_spare_away_for_a_moment_only() -> None:
    door = Admission(
        at_once=4,
        most_waiting=10,
        longest_wait=timedelta(seconds=20),
        guest_patience=timedelta(seconds=0.05),
    )
    spare = False

    async def refill() -> None:
        nonlocal spare
        async with door.spare():
            spare = True

    refilling = None
    with door.wanted():
        async with door.turn(A) as turn:
            refilling = asyncio.create_task(refill())
            await asyncio.sleep(0.1)
            # The host works on, however long that takes.
            assert not spare
            turn.guest_is_awaited()
            await asyncio.sleep(0.02)
            assert not spare
            async with asyncio.timeout(5):
                await refilling
    assert spare


async def test_a_spare_turn_that_is_held_keeps_nobody_from_his_own() -> None:
    door = Admission(at_once=3, most_waiting=10, longest_wait=timedelta(seconds=20), spare_at_once=2)
    inside = 0

    async with asyncio.TaskGroup() as group, door.spare(), door.spare():
        third = group.create_task(_pass(door.spare()))
        async with door.turn(A):
            inside += 1
        await turns(3)
        assert not third.done()
        third.cancel()

    assert inside == 1
    async with asyncio.timeout(5), door.spare():
        pass


@pytest.mark.parametrize("moment", range(6))
async def test_a_cancelled_spare_turn_is_not_lost(moment: int) -> None:
    door = admission()

    async with asyncio.TaskGroup() as group:
        working = group.create_task(_pass(door.turn(A)))
        spare = group.create_task(_pass(door.spare()))
        await turns(moment)
        spare.cancel()
        await asyncio.wait([working, spare])

    async with asyncio.timeout(5), door.turn(B):
        pass
    async with asyncio.timeout(5), door.spare():
        pass


async def _pass(turn: AbstractAsyncContextManager[None]) -> None:
    async with turn:
        await turns(2)


async def test_what_nobody_waits_for_begins_after_a_moment_of_calm() -> None:
    door = Admission(
        at_once=3,
        most_waiting=10,
        longest_wait=timedelta(seconds=20),
        calm=lambda: timedelta(milliseconds=50),
    )
    began: list[float] = []

    async def refill() -> None:
        async with door.spare():
            began.append(time.monotonic())

    with door.wanted():
        refilling = asyncio.create_task(refill())
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.02)
    # Another one comes before it was calm for long enough.
    with door.wanted():
        await asyncio.sleep(0.06)
    ended = time.monotonic()
    assert not began
    async with asyncio.timeout(5):
        await refilling

    assert began[0] - ended >= 0.045


async def test_a_turn_in_which_a_guest_is_waited_for_goes_on_to_the_next_and_ends_once() -> None:
    door = Admission(
        at_once=1, most_waiting=10, longest_wait=timedelta(seconds=20), guest_patience=timedelta(0)
    )

    async with door.turn(A) as turn:
        turn.guest_is_awaited()
        turn.guest_is_awaited()
        async with asyncio.timeout(5), door.turn(B):
            third = asyncio.create_task(_pass(door.turn(B)))
            await turns()
            assert door.waiting == 1
        await third
    async with door.turn(A):
        # Had the first turn ended twice, there would be two now.
        fourth = asyncio.create_task(_pass(door.turn(B)))
        await turns()
        assert door.waiting == 1
    await fourth


async def test_a_turn_is_kept_while_the_guest_is_within_its_time() -> None:
    door = admission()

    async with door.turn(A) as turn:
        turn.guest_is_awaited()
        other = asyncio.create_task(_pass(door.turn(B)))
        await turns()
        assert door.waiting == 1
    async with asyncio.timeout(1):
        await other


async def test_who_has_many_woken_keeps_no_other_team_from_its_own_wakes() -> None:
    door = admission()
    order: list[str] = []

    async def work(team: TeamId, name: str) -> None:
        async with door.turn(team, Urgency(True)):
            order.append(name)

    async with asyncio.TaskGroup() as group, door.turn(C):
        for number in range(4):
            group.create_task(work(A, f"a{number}"))
        await turns(1)
        group.create_task(work(B, "b"))
        await turns(1)

    assert order == ["a0", "b", "a1", "a2", "a3"]


async def test_wakes_of_one_team_that_fill_their_places_make_room_for_another_team() -> None:
    door = admission(most_waiting=3)

    async with asyncio.TaskGroup() as group, door.turn(C):
        wakes = [
            group.create_task(outcome(_pass(door.turn(A, Urgency(True)))), name=f"a{number}")
            for number in range(3)
        ]
        await turns(1)
        other = group.create_task(outcome(_pass(door.turn(B, Urgency(True)))))
        await turns(1)
        assert door.waiting == 3

    assert [one.result() is None for one in wakes] == [True, True, False]
    assert wakes[2].result().reason is Reason.NO_ROOM
    assert other.result() is None


async def test_a_team_that_holds_all_turns_leaves_one_to_each_other_in_turn() -> None:
    door = admission(at_once=2, reserved=1)
    order: list[str] = []

    async def work(team: TeamId, name: str, urgency: Urgency | None = None) -> None:
        async with door.turn(team, urgency):
            order.append(name)
            await turns(3)

    async with asyncio.TaskGroup() as group, door.turn(A), door.turn(A):
        # It has what it may have, however urgent the rest is.
        group.create_task(work(A, "a0", Urgency(True)))
        await turns(1)
        for name in ("b0", "b1", "b2"):
            group.create_task(work(B, name))
        group.create_task(work(C, "c0"))
        await turns(40)
        assert order == ["b0", "b1", "c0", "b2"]
        assert door.waiting == 1

    assert order == ["b0", "b1", "c0", "b2", "a0"]
    async with asyncio.timeout(5), door.turn(A), door.turn(A):
        assert door.waiting == 0


@pytest.mark.parametrize("moment", range(8))
async def test_a_reserved_turn_is_not_lost_where_one_leaves(moment: int) -> None:
    door = admission(reserved=1)

    async with asyncio.TaskGroup() as group, door.turn(A):
        first = group.create_task(_pass(door.turn(B)))
        group.create_task(_pass(door.turn(C)))
        leaves = group.create_task(_pass(door.turn(B)))
        await turns(moment)
        leaves.cancel()
        await asyncio.wait([first])
        async with asyncio.timeout(5), door.turn(B):
            pass
    async with asyncio.timeout(5), door.turn(A), door.turn(B):
        assert door.waiting == 0


async def test_what_is_spare_takes_no_reserved_turn() -> None:
    door = admission(reserved=1)
    order: list[str] = []

    async def spare() -> None:
        async with door.spare():
            order.append("spare")
            await turns(5)

    async with asyncio.TaskGroup() as group:
        group.create_task(spare())
        await turns(1)
        # What is spare holds the only turn, and is no team.
        async with asyncio.timeout(5), door.turn(A):
            order.append("a")
            group.create_task(spare())
            await turns(10)

    assert order == ["spare", "a", "spare"]
