"""The rows of sandboxes and what belongs to them; nothing here knows a verb of control."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, insert
from typing_extensions import override

from atoll.server.domain.errors import AbortedError, AlreadyExistsError, InvalidArgumentError, NotFoundError
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.machine import ProcessKilledForMemory
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.store import MOST_ROWS, Page, SandboxFilter, Store
from atoll.server.stores import statements
from atoll.server.stores.database import Database
from atoll.server.stores.owning import check_team
from atoll.server.stores.rows import (
    memory_kill_from_row,
    memory_kill_to_row,
    sandbox_from_row,
    sandbox_to_row,
)
from atoll.server.stores.tables import memory_kills, sandbox_metadata
from atoll.server.stores.telling import Telling


class SqliteSandboxes(Store):
    """Sandboxes in the database."""

    def __init__(self, database: Database, telling: Telling) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
            telling: what changes of rows mean to their owners.
        """
        self._database = database
        self._telling = telling

    @override
    async def add_sandbox(self, sandbox: Sandbox) -> None:
        with self._database.transaction(writes=True) as connection:
            check_team(connection, sandbox.team_id)
            if connection.execute(statements.SANDBOX_EXISTS, {"id": sandbox.id}).first():
                raise AlreadyExistsError(f"Sandbox {sandbox.id} exists")
            connection.execute(statements.NEW_SANDBOX, sandbox_to_row(sandbox))
            _add_pairs(connection, sandbox)

    @override
    async def get_sandbox(self, sandbox_id: SandboxId) -> Sandbox:
        with self._database.transaction(writes=False) as connection:
            return _read(connection, sandbox_id)

    @override
    async def find_request(self, team_id: TeamId, key: str) -> Sandbox | None:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(statements.named_request(team_id, key)).mappings().first()
            return sandbox_from_row(row) if row is not None else None

    @override
    async def replace_sandbox(self, old: Sandbox, new: Sandbox) -> None:
        assert old.id == new.id
        with self._database.transaction(writes=True) as connection:
            if _read(connection, old.id) != old:
                raise AbortedError(f"Sandbox {old.id} was changed meanwhile")
            before = sandbox_to_row(old)
            values = {name: value for name, value in sandbox_to_row(new).items() if value != before[name]}
            if values:
                bound = {f"new_{name}": value for name, value in values.items()}
                change = statements.change_of_sandbox(frozenset(values))
                connection.execute(change, {"which": new.id, **bound})
            if new.metadata != old.metadata:
                connection.execute(delete(sandbox_metadata).where(sandbox_metadata.c.sandbox_id == new.id))
                _add_pairs(connection, new)
            self._telling.tell(connection, old, new)

    @override
    async def list_sandboxes(self, filter: SandboxFilter, page: Page) -> Sequence[Sandbox]:
        if not 1 <= page.limit <= MOST_ROWS:
            raise InvalidArgumentError(f"Limit must be between 1 and {MOST_ROWS}")
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(statements.page_of_sandboxes(filter, page)).mappings()
            return [sandbox_from_row(row) for row in rows]

    @override
    async def count_sandboxes(self, filter: SandboxFilter) -> int:
        with self._database.transaction(writes=False) as connection:
            return int(connection.execute(*statements.number_of_sandboxes(filter)).scalar_one())

    @override
    async def sandbox_at(self, address: str) -> Sandbox | None:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(statements.at_address(address)).mappings().first()
            return sandbox_from_row(row) if row is not None else None

    @override
    async def secured_ids(self) -> Sequence[SandboxId]:
        with self._database.transaction(writes=False) as connection:
            return [SandboxId(row) for row in connection.execute(statements.secured_ids()).scalars()]

    @override
    async def paused_before(self, moment: datetime) -> Sequence[SandboxId]:
        with self._database.transaction(writes=False) as connection:
            return [SandboxId(row) for row in connection.execute(statements.paused_before(moment)).scalars()]

    @override
    async def next_deadline(self) -> Sandbox | None:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(statements.first_deadline()).mappings().first()
            return sandbox_from_row(row) if row is not None else None

    @override
    async def next_snapshot(self) -> Sandbox | None:
        return self._first_due("snapshot_due")

    @override
    async def next_idle(self) -> Sandbox | None:
        return self._first_due("idle_due")

    def _first_due(self, column: str) -> Sandbox | None:
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(statements.first_due(column)).mappings().first()
            return sandbox_from_row(row) if row is not None else None

    @override
    async def forget_sandboxes(
        self, *, ended_before: datetime | None, most: int, team_id: TeamId | None = None
    ) -> int:
        with self._database.transaction(writes=True) as connection:
            return connection.execute(statements.old_sandboxes(ended_before, most, team_id)).rowcount

    @override
    async def add_memory_kill(self, kill: ProcessKilledForMemory, *, keep: int) -> None:
        with self._database.transaction(writes=True) as connection:
            _check_there(connection, kill.sandbox_id)
            connection.execute(insert(memory_kills), memory_kill_to_row(kill))
            connection.execute(statements.kills_beyond(kill.sandbox_id, keep))

    @override
    async def memory_kills(self, sandbox_id: SandboxId) -> Sequence[ProcessKilledForMemory]:
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(statements.kills_in(sandbox_id)).mappings()
            return [memory_kill_from_row(row) for row in rows]


def _read(connection: Connection, sandbox_id: SandboxId) -> Sandbox:
    row = connection.execute(statements.ONE_SANDBOX, {"id": sandbox_id}).mappings().first()
    if row is None:
        raise NotFoundError(f"No row of sandbox {sandbox_id}")
    return sandbox_from_row(row)


def _check_there(connection: Connection, sandbox_id: SandboxId) -> None:
    if connection.execute(statements.SANDBOX_EXISTS, {"id": sandbox_id}).first() is None:
        raise NotFoundError(f"No row of sandbox {sandbox_id}")


def _add_pairs(connection: Connection, sandbox: Sandbox) -> None:
    pairs = [
        {"sandbox_id": sandbox.id, "key": key, "value": value} for key, value in sandbox.metadata.items()
    ]
    if pairs:
        connection.execute(insert(sandbox_metadata), pairs)
