"""Every promise of ports/store.py, for every store."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fakes.events import sandboxes_in
from fakes.teams import add_teams

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    AbortedError,
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
)
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId, new_sandbox_id
from atoll.server.domain.ingress import IngressPolicy
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import ProcessKilledForMemory
from atoll.server.domain.sandbox import EndReason, Pause, Sandbox, Status, Target
from atoll.server.domain.upkeep import NEVER, Fall, Restart, Skip, Upkeep
from atoll.server.ports.store import Page, SandboxFilter, Store
from atoll.server.stores.database import Database

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEAM = TeamId("team")


def make(minute: float = 0, **changes: Any) -> Sandbox:
    values: dict[str, Any] = {
        "id": new_sandbox_id(),
        "team_id": TEAM,
        "template_id": TemplateId("base-123"),
        "template_alias": "base",
        "target": Target.RUNNING,
        "status": Status.RUNNING,
        "limits": Limits(cpus=0.5, memory_bytes=2**40, processes=1024, disk_bytes=2**41),
        "egress": EgressPolicy(
            internet=False, allow_out=("1.1.1.1", "::/0"), deny_out=("0.0.0.0/0",), dns_servers=("9.9.9.9",)
        ),
        "ingress": IngressPolicy(public=False, mask_host="localhost:${PORT}", https_ports=(8443,)),
        "metadata": {"k y": "v&\"'", "ü": "☃"},
        "env": {"A": "line\nline"},
        "created_at": NOON + timedelta(minutes=minute),
        "started_at": NOON + timedelta(minutes=minute, microseconds=1),
        "deadline": NOON + timedelta(hours=1, minutes=minute),
        "runtime": "fake",
        "address": "10.0.0.1",
        "secured": False,
        "generation": 2**40,
    }
    return Sandbox(**{**values, **changes})


@pytest.fixture(params=["sqlite", "sqlite in memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    path = tmp_path / "atoll.db" if request.param == "sqlite" else None
    async with Database(path) as database:
        await add_teams(database, TEAM, "other")
        yield sandboxes_in(database)


async def add(store: Store, *rows: Sandbox) -> list[SandboxId]:
    for row in rows:
        await store.add_sandbox(row)
    return [row.id for row in rows]


async def listed(store: Store, page: Page | None = None, **filter: Any) -> list[SandboxId]:
    return [row.id for row in await store.list_sandboxes(SandboxFilter(**filter), page or Page())]


async def test_a_running_sandbox_is_found_by_its_address(store: Store) -> None:
    ended, row = make(status=Status.KILLED), make()
    await add(store, ended, make(address="10.0.0.2"), row)

    assert await store.sandbox_at("10.0.0.1") == row
    assert await store.sandbox_at("10.0.0.3") is None


async def test_a_row_reads_as_it_was_written(store: Store) -> None:
    row = make(
        status=Status.FAILED,
        target=Target.KILLED,
        ended_at=NOON,
        end_reason=EndReason.OOM,
        end_detail="why",
    )

    await store.add_sandbox(row)

    assert await store.get_sandbox(row.id) == row


async def test_an_empty_row_reads_as_it_was_written(store: Store) -> None:
    row = make(started_at=None, address=None, metadata={}, env={}, status=Status.CREATING)

    await store.add_sandbox(row)

    assert await store.get_sandbox(row.id) == row


async def test_times_come_back_in_utc_whatever_their_zone_was(store: Store) -> None:
    row = make(created_at=datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))))

    await store.add_sandbox(row)

    read = await store.get_sandbox(row.id)
    assert read.created_at == NOON
    assert read.created_at.tzinfo is UTC


async def test_an_id_is_taken_once(store: Store) -> None:
    row = make()
    await store.add_sandbox(row)

    with pytest.raises(AlreadyExistsError):
        await store.add_sandbox(replace(row, env={"other": "1"}))

    assert await store.get_sandbox(row.id) == row


async def test_a_row_that_is_not_there_is_not_found(store: Store) -> None:
    row = make()

    with pytest.raises(NotFoundError):
        await store.get_sandbox(row.id)
    with pytest.raises(NotFoundError):
        await store.replace_sandbox(row, row)


async def test_replace_writes_where_the_old_row_stands(store: Store) -> None:
    old = make()
    new = replace(old, status=Status.KILLING, metadata={"only": "this"}, deadline=NOON)
    await store.add_sandbox(old)

    await store.replace_sandbox(old, new)

    assert await store.get_sandbox(old.id) == new
    assert await listed(store, metadata=(("only", "this"),)) == [old.id]
    assert await listed(store, metadata=(("ü", "☃"),)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 7},
        {"env": {"A": "B"}},
        {"metadata": {}},
        {"deadline": NOON + timedelta(microseconds=1)},
        {"address": None},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_replace_refuses_when_anything_of_the_old_row_changed(
    store: Store, change: dict[str, Any]
) -> None:
    seen = make()
    await store.add_sandbox(seen)
    current = replace(seen, **change)
    await store.replace_sandbox(seen, current)

    with pytest.raises(AbortedError):
        await store.replace_sandbox(seen, replace(seen, status=Status.KILLING))

    assert await store.get_sandbox(seen.id) == current


async def test_a_list_is_ordered_by_time_and_id_in_both_directions(store: Store) -> None:
    ids = await add(store, make(2), make(0), make(1))
    same = sorted(await add(store, make(3), make(3), make(3)))

    assert await listed(store) == [*reversed(same), ids[0], ids[2], ids[1]]
    assert await listed(store, Page(newest_first=False)) == [ids[1], ids[2], ids[0], *same]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_together_are_the_list(store: Store, newest_first: bool) -> None:
    # Several rows of one moment, across the borders of pages.
    await add(store, *[make(minute // 3) for minute in range(10)])
    whole = await listed(store, Page(newest_first=newest_first))

    pages: list[SandboxId] = []
    after = None
    while part := await store.list_sandboxes(
        SandboxFilter(), Page(limit=2, after=after, newest_first=newest_first)
    ):
        assert len(part) <= 2
        pages += [row.id for row in part]
        after = (part[-1].created_at, part[-1].id)

    assert pages == whole
    assert len(pages) == 10


async def test_a_row_that_is_added_meanwhile_moves_no_page(store: Store) -> None:
    old = await add(store, make(0), make(1), make(2))
    first = await store.list_sandboxes(SandboxFilter(), Page(limit=2))
    await store.add_sandbox(make(3))

    rest = await listed(store, Page(after=(first[-1].created_at, first[-1].id)))

    assert rest == [old[0]]


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_1_to_1000_rows(store: Store, limit: int) -> None:
    with pytest.raises(InvalidArgumentError):
        await store.list_sandboxes(SandboxFilter(), Page(limit=limit))


async def test_each_part_of_a_filter_must_match(store: Store) -> None:
    mine, theirs, killed, other = await add(
        store,
        make(0),
        make(1, team_id=TeamId("other")),
        make(2, status=Status.KILLED),
        make(3, template_id=TemplateId("code-9"), template_alias="code"),
    )

    assert await listed(store, team_id=TEAM) == [other, killed, mine]
    assert await listed(store, statuses=frozenset({Status.RUNNING})) == [other, theirs, mine]
    assert await listed(store, statuses=frozenset()) == []
    assert await listed(store, template="code") == [other]
    assert await listed(store, template="code-9") == [other]
    assert await listed(store, team_id=TEAM, statuses=frozenset({Status.RUNNING}), template="base") == [mine]


async def test_started_after_means_then_or_later_and_started(store: Store) -> None:
    moment = NOON + timedelta(minutes=1)
    _, then, later, _ = await add(
        store,
        make(started_at=moment - timedelta(microseconds=1)),
        make(started_at=moment),
        make(started_at=moment + timedelta(microseconds=1)),
        make(started_at=None),
    )

    assert sorted(await listed(store, started_after=moment)) == sorted([then, later])


async def test_all_pairs_of_metadata_must_match(store: Store) -> None:
    both, one = await add(
        store, make(0, metadata={"a": "1", "b": "2"}), make(1, metadata={"a": "1", "b": "3"})
    )

    assert await listed(store, metadata=(("a", "1"),)) == [one, both]
    assert await listed(store, metadata=(("a", "1"), ("b", "2"))) == [both]
    assert await listed(store, metadata=(("a", "1"), ("c", "2"))) == []
    assert await listed(store, metadata=(("a", "1"), ("a", "2"))) == []
    assert await listed(store, metadata=(("A", "1"),)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ('"', "quote"),
        ("$.a[0]", "path"),
        ("a.b", "dot"),
        ("", "no key"),
        ("%", "_"),
        ("'; drop table sandboxes; --", "x"),
        ("n", "1"),
    ],
)
async def test_any_text_is_a_key_and_a_value(store: Store, key: str, value: str) -> None:
    wanted, _ = await add(store, make(0, metadata={key: value}), make(1, metadata={"x": value, key: "y"}))

    assert await listed(store, metadata=((key, value),)) == [wanted]


async def test_count_counts_what_list_would_give(store: Store) -> None:
    await add(store, make(), make(), make(status=Status.KILLED), make(metadata={"a": "1"}))

    assert await store.count_sandboxes(SandboxFilter()) == 4
    assert await store.count_sandboxes(SandboxFilter(statuses=frozenset({Status.RUNNING}))) == 3
    assert await store.count_sandboxes(SandboxFilter(metadata=(("a", "1"),))) == 1
    assert await store.count_sandboxes(SandboxFilter(team_id=TeamId("nobody"))) == 0


async def test_the_secured_ids_are_those_of_running_sandboxes_with_a_token(store: Store) -> None:
    assert await store.secured_ids() == []

    secured = [make(secured=True), make(secured=True)]
    await add(store, *secured, make(secured=False), make(secured=True, status=Status.KILLED, ended_at=NOON))

    assert set(await store.secured_ids()) == {row.id for row in secured}


async def test_who_is_paused_since_a_moment_or_longer_is_listed_the_longest_first(store: Store) -> None:
    def pause(minutes: int) -> Pause:
        at = NOON + timedelta(minutes=minutes)
        return Pause(checkpoint=f"c-{minutes}", kind=CheckpointKind.MEMORY, at=at)

    second = make(status=Status.PAUSED, pause=pause(1))
    first = make(status=Status.PAUSED, pause=pause(0))
    await add(
        store,
        second,
        first,
        make(status=Status.PAUSED, pause=pause(3)),
        make(status=Status.PAUSED),
        make(status=Status.RESUMING, pause=pause(0)),
    )

    assert await store.paused_before(NOON + timedelta(minutes=1)) == [first.id, second.id]
    assert await store.paused_before(NOON - timedelta(minutes=1)) == []


async def test_the_next_deadline_is_that_of_a_running_sandbox(store: Store) -> None:
    assert await store.next_deadline() is None

    later, first = make(deadline=NOON + timedelta(minutes=2)), make(deadline=NOON + timedelta(minutes=1))
    await add(
        store,
        later,
        first,
        make(deadline=NOON, status=Status.CREATING),
        make(deadline=NOON, status=Status.KILLING),
        make(deadline=NOON, status=Status.KILLED),
    )

    assert await store.next_deadline() == first


async def test_who_has_no_deadline_is_never_next(store: Store) -> None:
    lasting = make(deadline=NEVER, upkeep=Upkeep(persistent=True))
    await add(store, lasting)
    assert await store.next_deadline() is None

    first = make()
    await add(store, first)
    assert await store.next_deadline() == first


@pytest.mark.parametrize("due", ["snapshot_due", "idle_due"])
async def test_what_is_due_first_is_found_of_running_sandboxes_that_have_such_a_time(
    store: Store, due: str
) -> None:
    following = store.next_snapshot if due == "snapshot_due" else store.next_idle
    await add(store, make())
    assert await following() is None

    first, later = make(**{due: NOON}), make(**{due: NOON + timedelta(seconds=1)})
    await add(store, later, first, make(status=Status.PAUSED, **{due: NOON - timedelta(hours=1)}))

    assert await following() == first


async def test_how_a_sandbox_is_kept_is_read_as_it_was_written(store: Store) -> None:
    upkeep = Upkeep(
        persistent=True,
        restart=Restart.FROM_SNAPSHOT,
        snapshot_every=timedelta(minutes=10),
        keep_snapshots=7,
        idle_timeout=timedelta(seconds=90),
    )
    fall = Fall(reason="oom", at=NOON, origin="s1", times=2, back_at=NOON + timedelta(seconds=1))
    row = make(
        deadline=NEVER,
        upkeep=upkeep,
        fall=fall,
        snapshot_due=NOON,
        snapshot_skip=Skip(at=NOON, why="The disk is full"),
        idle_due=NOON + timedelta(microseconds=1),
    )
    await add(store, row)
    assert await store.get_sandbox(row.id) == row

    changed = replace(row, fall=Fall(reason="lost", at=NOON, problem="no room"), snapshot_skip=None)
    await store.replace_sandbox(row, changed)
    assert await store.get_sandbox(row.id) == changed


async def test_only_final_rows_are_forgotten_and_only_old_ones(store: Store) -> None:
    final = {"status": Status.KILLED, "ended_at": NOON}
    failed = {"status": Status.FAILED, "ended_at": NOON - timedelta(hours=1)}
    old, failed_old, new, running = await add(
        store,
        make(0, **final, metadata={"m": "1"}),
        make(1, **failed),
        make(2, **{**final, "ended_at": NOON + timedelta(seconds=1)}),
        make(3),
    )

    assert await store.forget_sandboxes(ended_before=NOON + timedelta(seconds=1), most=10) == 2

    assert await listed(store) == [running, new]
    # What was forgotten leaves nothing that a new row could trip over.
    await store.add_sandbox(make(4, id=old, metadata={"m": "1"}))
    await store.add_sandbox(make(5, id=failed_old))


async def test_ended_rows_of_one_team_are_forgotten_whenever_they_ended(store: Store) -> None:
    ended = {"status": Status.KILLED, "ended_at": NOON + timedelta(days=1), "end_reason": EndReason.KILLED}
    mine = await add(store, make(1, **ended), make(2, **ended))
    kept = await add(store, make(3), make(4, team_id=TeamId("other"), **ended))

    assert await store.forget_sandboxes(ended_before=None, most=1, team_id=TEAM) == 1
    assert await store.forget_sandboxes(ended_before=None, most=9, team_id=TEAM) == 1
    assert await store.forget_sandboxes(ended_before=None, most=9, team_id=TEAM) == 0

    there = await listed(store)
    assert set(there) == set(kept)
    assert not set(there) & set(mine)


async def test_so_many_rows_are_forgotten_at_once_and_the_oldest_first(store: Store) -> None:
    def ended(hours: int) -> Sandbox:
        return make(status=Status.KILLED, ended_at=NOON - timedelta(hours=hours))

    young, _oldest, _older, old = await add(store, ended(1), ended(4), ended(3), ended(2))

    assert await store.forget_sandboxes(ended_before=NOON, most=2) == 2
    assert set(await listed(store)) == {young, old}
    assert await store.forget_sandboxes(ended_before=NOON - timedelta(hours=1), most=2) == 1
    assert await listed(store) == [young]
    assert await store.forget_sandboxes(ended_before=NOON, most=2) == 1
    assert await store.forget_sandboxes(ended_before=NOON, most=2) == 0


def kill(sandbox_id: SandboxId, pid: int, **changes: Any) -> ProcessKilledForMemory:
    values: dict[str, Any] = {"command": "python3 ☃", "resident_bytes": 2**40, **changes}
    return ProcessKilledForMemory(sandbox_id=sandbox_id, pid=pid, **values)


async def test_only_the_last_kills_for_memory_of_each_sandbox_are_kept(store: Store) -> None:
    noisy, quiet, untouched = await add(store, make(0), make(1), make(2))
    await store.add_memory_kill(kill(quiet, 1), keep=3)
    for pid in range(10):
        await store.add_memory_kill(kill(noisy, pid), keep=3)

    assert await store.memory_kills(noisy) == [kill(noisy, 7), kill(noisy, 8), kill(noisy, 9)]
    assert await store.memory_kills(quiet) == [kill(quiet, 1)]
    assert await store.memory_kills(untouched) == []


async def test_the_largest_numbers_of_a_kill_read_as_they_were_written(store: Store) -> None:
    (sandbox_id,) = await add(store, make())
    largest = kill(sandbox_id, 2**32 - 1, resident_bytes=2**63 - 1, command="")

    await store.add_memory_kill(largest, keep=1)

    assert await store.memory_kills(sandbox_id) == [largest]


async def test_a_kill_in_a_sandbox_without_a_row_is_not_found(store: Store) -> None:
    missing = make().id

    with pytest.raises(NotFoundError):
        await store.add_memory_kill(kill(missing, 1), keep=3)

    assert await store.memory_kills(missing) == []


async def test_kills_for_memory_are_forgotten_with_their_row(store: Store) -> None:
    (old,) = await add(store, make(status=Status.KILLED, ended_at=NOON))
    await store.add_memory_kill(kill(old, 1), keep=3)

    await store.forget_sandboxes(ended_before=NOON + timedelta(seconds=1), most=1)

    assert await store.memory_kills(old) == []
    await store.add_sandbox(make(id=old))
    assert await store.memory_kills(old) == []


async def test_what_was_known_of_a_guest_at_its_pause_is_kept(store: Store) -> None:
    for silent in (True, False):
        pause = Pause(checkpoint="c", kind=CheckpointKind.MEMORY, at=make().created_at, silent=silent)
        row = make(status=Status.PAUSED, pause=pause)
        await store.add_sandbox(row)

        assert (await store.get_sandbox(row.id)).pause == pause
