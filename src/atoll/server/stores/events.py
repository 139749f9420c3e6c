"""Events: read and forgotten here, written by ``telling`` with the row that tells them."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, insert, select
from typing_extensions import override

from atoll.server.domain.events import PAUSED, Event, EventType
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId
from atoll.server.domain.team_history import Change, Turn
from atoll.server.ports.events import EventQuery, EventStore
from atoll.server.stores.database import Database, unreadable
from atoll.server.stores.tables import events

# Built once: every create writes one.
_NEW = insert(events)
_CHANGES = {
    EventType.CREATED.value: Change.STARTED,
    EventType.RESUMED.value: Change.RESUMED,
    EventType.PAUSED.value: Change.ENDED,
    EventType.KILLED.value: Change.ENDED,
}


class SqliteEvents(EventStore):
    """Events in the database."""

    def __init__(self, database: Database) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
        """
        self._database = database

    @override
    async def list_events(self, query: EventQuery) -> Sequence[Event]:
        wanted = [events.c.team_id == query.team_id]
        if query.sandbox_id is not None:
            wanted.append(events.c.sandbox_id == query.sandbox_id)
        if query.types:
            wanted.append(events.c.type.in_([kind.value for kind in query.types]))
        order = events.c.seq.asc() if query.oldest_first else events.c.seq.desc()
        statement = select(events).where(*wanted).order_by(order).limit(query.limit).offset(query.offset)
        with self._database.transaction(writes=False) as connection:
            return [event_from_row(row) for row in connection.execute(statement).mappings()]

    @override
    async def list_turns(self, team_id: TeamId, *, before: int | None, limit: int) -> Sequence[Turn]:
        state = events.c.data["state"].as_string().label("state")
        wanted = [events.c.team_id == team_id, events.c.type.in_(_CHANGES)]
        if before is not None:
            wanted.append(events.c.seq < before)
        statement = select(events.c.seq, events.c.at, events.c.type, state).where(*wanted)
        with self._database.transaction(writes=False) as connection:
            found = connection.execute(statement.order_by(events.c.seq.desc()).limit(limit))
            return [
                Turn(place=row.seq, at=row.at, change=_change(row.type, row.state)) for row in found.all()
            ]

    @override
    async def kept_since(self, team_id: TeamId, *, most: int) -> datetime | None:
        ours = select(events.c.at).where(events.c.team_id == team_id).order_by(events.c.seq.desc())
        with self._database.transaction(writes=False) as connection:
            found: datetime | None = connection.execute(ours.limit(1).offset(most - 1)).scalar()
            return found

    @override
    async def forget_events(self, *, before: datetime, most: int) -> int:
        old = select(events.c.seq).where(events.c.at < before).order_by(events.c.at).limit(most)
        with self._database.transaction(writes=True) as connection:
            return _delete(connection, old.scalar_subquery())

    @override
    async def forget_excess(self, team_id: TeamId, *, keep: int, most: int) -> int:
        ours = select(events.c.seq).where(events.c.team_id == team_id)
        first_beyond = ours.order_by(events.c.seq.desc()).limit(1).offset(keep).scalar_subquery()
        beyond = ours.where(events.c.seq <= first_beyond).order_by(events.c.seq).limit(most)
        with self._database.transaction(writes=True) as connection:
            return _delete(connection, beyond.scalar_subquery())

    @override
    async def next_team(self, after: TeamId) -> TeamId | None:
        # A look into the index, where listing all teams would read all of it.
        statement = select(func.min(events.c.team_id)).where(events.c.team_id > after)
        with self._database.transaction(writes=False) as connection:
            found = connection.execute(statement).scalar_one()
            return TeamId(found) if found is not None else None


def _change(type: str, state: str | None) -> Change:
    # Who was paused when it was killed did not run before, either.
    return Change.NONE if state == PAUSED else _CHANGES[type]


def _delete(connection: Connection, which: ColumnElement[int]) -> int:
    return connection.execute(delete(events).where(events.c.seq.in_(which))).rowcount


def add_event(connection: Connection, event: Event) -> int:
    """Write an event; return its number."""
    row = {
        "id": event.id,
        "team_id": event.team_id,
        "sandbox_id": event.sandbox_id,
        "template_id": event.template_id,
        "generation": event.generation,
        "type": event.type.value,
        "at": event.at,
        "data": dict(event.data) if event.data is not None else None,
    }
    written = connection.execute(_NEW, row).inserted_primary_key
    assert written is not None
    return int(written[0])


def event_from_row(row: RowMapping, *, id: str | None = None) -> Event:
    """
    Read an event's row; ``id`` is its own where the row has another one under that name.

    Raises:
        InternalError: a value is none that this version writes.
    """
    try:
        return Event(
            id=id or row["id"],
            type=EventType(row["type"]),
            team_id=TeamId(row["team_id"]),
            sandbox_id=SandboxId(row["sandbox_id"]),
            template_id=TemplateId(row["template_id"]),
            generation=row["generation"],
            at=row["at"],
            data=row["data"],
        )
    except (ValueError, TypeError) as error:
        raise unreadable(f"event {id or row['id']}", error) from error
