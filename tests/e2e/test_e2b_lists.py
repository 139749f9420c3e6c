"""Lists of the released clients: what is asked for, in which order, page by page, and what is refused."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    InvalidArgumentException,
    Sandbox,
    SandboxException,
    SandboxQuery,
    SandboxState,
)

RUNNING, PAUSED = [SandboxState.RUNNING], [SandboxState.PAUSED]


@dataclass(frozen=True)
class Crowd:
    """Four sandboxes of one kind of metadata, oldest first: one paused, and the last of another template."""

    ids: list[str]
    metadata: dict[str, str]
    third_began: datetime
    snapshots: list[str]


@pytest.fixture(scope="module")
def crowd(client_options: dict[str, Any]) -> Iterator[Crowd]:
    wishes: Any = {"timeout": 600, "metadata": {"run": uuid.uuid4().hex}, **client_options}
    made = [Sandbox.create(template, **wishes) for template in ("minimal", "minimal", "minimal", "base")]
    snapshots = [made[0].create_snapshot(name=f"list-{wishes['metadata']['run'][:8]}-{n}") for n in range(3)]
    made[1].pause()
    yield Crowd(
        [one.sandbox_id for one in made],
        wishes["metadata"],
        made[2].get_info().started_at,
        [one.snapshot_id for one in snapshots],
    )
    for snapshot in snapshots:
        Sandbox.delete_snapshot(snapshot.snapshot_id, **client_options)
    for one in made:
        one.kill()


async def listed(
    options: dict[str, Any], crowd: Crowd, *, limit: int | None = None, order: Any = None, **query: Any
) -> list[str]:
    """List what is wanted of the crowd, with both clients, page by page."""
    wanted = SandboxQuery(metadata=crowd.metadata, **query)
    blocking = Sandbox.list(query=wanted, limit=limit, order=order, **options)
    waiting = AsyncSandbox.list(query=wanted, limit=limit, order=order, **options)
    found: list[str] = []
    while blocking.has_next:
        page = [one.sandbox_id for one in blocking.next_items()]
        assert page == [one.sandbox_id for one in await waiting.next_items()]
        assert limit is None or len(page) <= limit
        found += page
    assert not waiting.has_next
    return found


async def test_filters_are_those_of_the_query(crowd: Crowd, client_options: dict[str, Any]) -> None:
    one, two, three, four = crowd.ids

    async def found(**query: Any) -> list[str]:
        return await listed(client_options, crowd, order="asc", **query)

    assert await found() == crowd.ids
    assert await found(state=RUNNING) == [one, three, four]
    assert await found(state=PAUSED) == [two]
    assert await found(state=RUNNING + PAUSED) == crowd.ids
    assert await found(template="base") == [four]
    assert await found(template="minimal", state=RUNNING) == [one, three]
    assert await found(template="no-such") == []
    assert await found(started_after=crowd.third_began) == [three, four]
    # Without a zone it is the caller's own time.
    assert await found(started_after=crowd.third_began.astimezone().replace(tzinfo=None)) == [three, four]
    assert await found(started_after=datetime.now(UTC) + timedelta(hours=1)) == []


async def test_pages_go_on_where_the_last_one_ended(crowd: Crowd, client_options: dict[str, Any]) -> None:
    newest_first = crowd.ids[::-1]

    assert await listed(client_options, crowd, limit=3) == newest_first
    assert await listed(client_options, crowd, limit=1, order="asc") == crowd.ids
    assert await listed(client_options, crowd, limit=2, order="desc", state=RUNNING) == [
        newest_first[0], newest_first[1], newest_first[3],
    ]  # fmt: skip


def test_another_client_goes_on_with_a_token(crowd: Crowd, client_options: dict[str, Any]) -> None:
    query = SandboxQuery(metadata=crowd.metadata)
    first = Sandbox.list(query=query, limit=3, **client_options)
    first.next_items()

    rest = Sandbox.list(query=query, limit=3, next_token=first.next_token, **client_options)

    assert [one.sandbox_id for one in rest.next_items()] == crowd.ids[:1]
    assert not rest.has_next
    with pytest.raises(Exception, match="No more items"):
        rest.next_items()


@pytest.mark.parametrize(
    ("wish", "told"),
    [({"limit": 1000}, "limit"), ({"limit": -1}, "limit"), ({"next_token": "%%"}, "Invalid next token")],
)
async def test_what_cannot_be_asked_for_is_refused(
    client_options: dict[str, Any], wish: dict[str, Any], told: str
) -> None:
    with pytest.raises(SandboxException, match=f"400: .*{told}"):
        Sandbox.list(**wish, **client_options).next_items()
    with pytest.raises(SandboxException, match=f"400: .*{told}"):
        await AsyncSandbox.list(**wish, **client_options).next_items()
    with pytest.raises(SandboxException, match=f"400: .*{told}"):
        Sandbox.list_snapshots(**wish, **client_options).next_items()


async def test_an_order_that_there_is_not_is_refused(client_options: dict[str, Any]) -> None:
    order: Any = "sideways"
    with pytest.raises(InvalidArgumentException):
        Sandbox.list(order=order, **client_options).next_items()
    with pytest.raises(InvalidArgumentException):
        await AsyncSandbox.list(order=order, **client_options).next_items()


async def test_snapshots_are_found_by_sandbox_and_name_page_by_page(
    crowd: Crowd, client_options: dict[str, Any]
) -> None:
    one, two = crowd.ids[:2]
    pages = Sandbox.list_snapshots(sandbox_id=one, limit=2, **client_options)
    found = []
    while pages.has_next:
        page = pages.next_items()
        assert len(page) <= 2
        found += page
    named = found[0].names[0]

    assert sorted(snapshot.snapshot_id for snapshot in found) == sorted(crowd.snapshots)
    by_name = await AsyncSandbox.list_snapshots(name=named, **client_options).next_items()
    assert [snapshot.snapshot_id for snapshot in by_name] == [found[0].snapshot_id]
    assert Sandbox.list_snapshots(sandbox_id=two, **client_options).next_items() == []
    assert Sandbox.list_snapshots(name="no-such", **client_options).next_items() == []
