"""
The statements that take some thought, or that every call runs. They mean the same to SQLite and PostgreSQL.

The latter are built once: that takes twice as long as it takes to run them.
"""

from collections.abc import Collection
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    tuple_,
    update,
)

from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.sandbox import FINAL, EndReason, Status
from atoll.server.domain.upkeep import NEVER
from atoll.server.ports.store import Page, SandboxFilter
from atoll.server.stores.tables import UtcDateTime, memory_kills, sandbox_metadata, sandboxes

# The row with an ``id``, for who will change it. FOR UPDATE means nothing to SQLite: writers take turns.
ONE_SANDBOX = select(sandboxes).where(sandboxes.c.id == bindparam("id")).with_for_update()
NEW_SANDBOX = insert(sandboxes)
SANDBOX_EXISTS = select(sandboxes.c.id).where(sandboxes.c.id == bindparam("id"))
NUMBER_WITH_STATUS = (
    select(func.count())
    .select_from(sandboxes)
    .where(sandboxes.c.status.in_(bindparam("statuses", expanding=True)))
)


@lru_cache(maxsize=256)
def change_of_sandbox(columns: frozenset[str]) -> Update:
    """Set some columns of the row ``which``; each is given by its name with ``new_`` before it."""
    values = {name: bindparam(f"new_{name}", type_=sandboxes.c[name].type) for name in sorted(columns)}
    return update(sandboxes).where(sandboxes.c.id == bindparam("which")).values(values)


def page_of_sandboxes(filter: SandboxFilter, page: Page) -> Select[Any]:
    """Select a page, ordered by created_at and id."""
    order = (sandboxes.c.created_at, sandboxes.c.id)
    statement = select(sandboxes).where(_matches(filter))
    if page.after is not None:
        moment, sandbox_id = page.after
        here = tuple_(*order)
        there = tuple_(literal(moment, UtcDateTime), literal(sandbox_id))
        statement = statement.where(here < there if page.newest_first else here > there)
    ordering = [column.desc() if page.newest_first else column.asc() for column in order]
    return statement.order_by(*ordering).limit(page.limit)


def number_of_sandboxes(filter: SandboxFilter) -> tuple[Select[Any], dict[str, Any]]:
    """Count what a filter matches; returns the statement, and what is bound to it."""
    if filter.statuses is not None and filter == SandboxFilter(statuses=filter.statuses):
        return NUMBER_WITH_STATUS, {"statuses": _values(filter.statuses)}
    return select(func.count()).select_from(sandboxes).where(_matches(filter)), {}


def named_request(team_id: TeamId, key: str) -> Select[Any]:
    """Select the row of a named create that is under way, or was answered."""
    begun = or_(sandboxes.c.status == Status.CREATING.value, sandboxes.c.started_at.is_not(None))
    # It came up when its caller had gone away: nobody was told, and it was ended at once.
    untold = sandboxes.c.end_reason == EndReason.START_INTERRUPTED.value
    answers = and_(begun, or_(sandboxes.c.end_reason.is_(None), not_(untold)))
    return (
        select(sandboxes)
        .where(sandboxes.c.team_id == team_id, sandboxes.c.request_key == key, answers)
        .limit(1)
    )


def at_address(address: str) -> Select[Any]:
    """Select the running sandbox that has an address."""
    return select(sandboxes).where(sandboxes.c.status == Status.RUNNING.value, sandboxes.c.address == address)


@cache
def secured_ids() -> Select[Any]:
    """Select the ids of running sandboxes that have an access token."""
    return select(sandboxes.c.id).where(
        sandboxes.c.status == Status.RUNNING.value, sandboxes.c.secured.is_(True)
    )


def paused_before(moment: datetime) -> Select[Any]:
    """Select the ids of those that are paused since a moment or longer, the longest first."""
    return (
        select(sandboxes.c.id)
        .where(sandboxes.c.status == Status.PAUSED.value, sandboxes.c.paused_at <= moment)
        .order_by(sandboxes.c.paused_at, sandboxes.c.id)
    )


@cache
def first_deadline() -> Select[Any]:
    """Select the running row whose deadline comes first."""
    return (
        select(sandboxes)
        .where(sandboxes.c.status == Status.RUNNING.value, sandboxes.c.deadline < NEVER)
        .order_by(sandboxes.c.deadline, sandboxes.c.id)
        .limit(1)
    )


@cache
def first_due(column: str) -> Select[Any]:
    """Select the running row whose time in a column comes first, of those that have one."""
    due = sandboxes.c[column]
    running = sandboxes.c.status == Status.RUNNING.value
    return select(sandboxes).where(due.is_not(None), running).order_by(due, sandboxes.c.id).limit(1)


def old_sandboxes(ended_before: datetime | None, most: int, team_id: TeamId | None) -> Delete:
    """Delete the final rows that ended first, of those of a team that ended before; None: whichever."""
    final = sandboxes.c.status.in_([status.value for status in FINAL])
    old = select(sandboxes.c.id).where(final)
    if ended_before is not None:
        old = old.where(sandboxes.c.ended_at < ended_before)
    if team_id is not None:
        old = old.where(sandboxes.c.team_id == team_id)
    return delete(sandboxes).where(sandboxes.c.id.in_(old.order_by(sandboxes.c.ended_at).limit(most)))


def kills_in(sandbox_id: SandboxId) -> Select[Any]:
    """Select what was killed in a sandbox, oldest first."""
    return select(memory_kills).where(memory_kills.c.sandbox_id == sandbox_id).order_by(memory_kills.c.id)


def kills_beyond(sandbox_id: SandboxId, keep: int) -> Delete:
    """Delete what was killed in a sandbox before the last ``keep``."""
    of_it = memory_kills.c.sandbox_id == sandbox_id
    last = select(memory_kills.c.id).where(of_it).order_by(memory_kills.c.id.desc()).limit(keep)
    return delete(memory_kills).where(of_it, memory_kills.c.id.not_in(last))


def _matches(filter: SandboxFilter) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = []
    if filter.team_id is not None:
        conditions.append(sandboxes.c.team_id == filter.team_id)
    if filter.statuses is not None:
        conditions.append(sandboxes.c.status.in_(_values(filter.statuses)))
    if filter.template is not None:
        conditions.append(
            or_(sandboxes.c.template_id == filter.template, sandboxes.c.template_alias == filter.template)
        )
    if filter.started_after is not None:
        conditions.append(sandboxes.c.started_at >= filter.started_after)
    conditions += [_has_pair(key, value) for key, value in filter.metadata]
    return and_(True, *conditions)


def _values(statuses: Collection[Status]) -> list[str]:
    return sorted(status.value for status in statuses)


def _has_pair(key: str, value: str) -> ColumnElement[bool]:
    pair = sandbox_metadata.c
    return exists().where(pair.sandbox_id == sandboxes.c.id, pair.key == key, pair.value == value)
