"""
The store in one SQLite file.

Calls run inline, on the event loop's own thread: a commit in WAL mode costs 0.02 ms, a hop to a
thread and back costs more, and a call that never yields needs no care about what happens meanwhile.
Nothing here knows a verb of control.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, delete, event, exc, insert, select, update
from sqlalchemy.pool import StaticPool
from typing_extensions import override

from atoll.server.domain.errors import (
    AbortedError,
    AlreadyExistsError,
    AtollError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.machine import ProcessKilledForMemory
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.store import MOST_ROWS, ApiKey, Page, SandboxFilter, Store
from atoll.server.stores import migrating, statements
from atoll.server.stores.rows import (
    api_key_from_row,
    memory_kill_from_row,
    memory_kill_to_row,
    sandbox_from_row,
    sandbox_to_row,
    unreadable,
)
from atoll.server.stores.tables import api_keys, memory_kills, sandbox_metadata, sandboxes

# How long to wait for another process that writes (a backup, an operator's shell). The event loop
# stands still meanwhile; nobody else writes in normal use.
BUSY_TIMEOUT = timedelta(seconds=2)

_WRITES = "atoll_writes"


class SqliteStore(Store):
    """
    Rows in a file, or in memory for tests.

    A commit survives the end of this process, kill -9 too. It may not survive a power cut, which
    no sandbox survives either: what then is on the disk without a row is removed at the next start.
    """

    def __init__(self, path: Path | None) -> None:
        """
        Args:
            path: the file; made with mode 0600 if missing. None: in memory.
        """
        self._path = path
        self._engine: Engine | None = None

    @override
    async def open(self) -> None:
        if self._path is not None:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        engine = create_engine(
            f"sqlite:///{self._path}" if self._path else "sqlite://",
            # One thread, one transaction at a time: one connection.
            poolclass=StaticPool,
        )
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        self._engine = engine
        try:
            with self._errors():
                self._check_file(engine)
                migrating.upgrade(engine)
        except BaseException:
            await self.close()
            raise

    @override
    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    @override
    async def add_sandbox(self, sandbox: Sandbox) -> None:
        with self._transaction(writes=True) as connection:
            if connection.execute(select(sandboxes.c.id).where(sandboxes.c.id == sandbox.id)).first():
                raise AlreadyExistsError(f"Sandbox {sandbox.id} exists")
            connection.execute(insert(sandboxes), sandbox_to_row(sandbox))
            _add_pairs(connection, sandbox)

    @override
    async def get_sandbox(self, sandbox_id: SandboxId) -> Sandbox:
        with self._transaction(writes=False) as connection:
            return _read(connection, sandbox_id)

    @override
    async def find_request(self, team_id: TeamId, key: str) -> Sandbox | None:
        with self._transaction(writes=False) as connection:
            row = connection.execute(statements.named_request(team_id, key)).mappings().first()
            return sandbox_from_row(row) if row is not None else None

    @override
    async def replace_sandbox(self, old: Sandbox, new: Sandbox) -> None:
        assert old.id == new.id
        with self._transaction(writes=True) as connection:
            if _read(connection, old.id) != old:
                raise AbortedError(f"Sandbox {old.id} was changed meanwhile")
            values = sandbox_to_row(new)
            connection.execute(update(sandboxes).where(sandboxes.c.id == new.id), values)
            if new.metadata != old.metadata:
                connection.execute(delete(sandbox_metadata).where(sandbox_metadata.c.sandbox_id == new.id))
                _add_pairs(connection, new)

    @override
    async def list_sandboxes(self, filter: SandboxFilter, page: Page) -> Sequence[Sandbox]:
        if not 1 <= page.limit <= MOST_ROWS:
            raise InvalidArgumentError(f"Limit must be between 1 and {MOST_ROWS}")
        with self._transaction(writes=False) as connection:
            rows = connection.execute(statements.page_of_sandboxes(filter, page)).mappings()
            return [sandbox_from_row(row) for row in rows]

    @override
    async def count_sandboxes(self, filter: SandboxFilter) -> int:
        with self._transaction(writes=False) as connection:
            return int(connection.execute(statements.number_of_sandboxes(filter)).scalar_one())

    @override
    async def sandbox_at(self, address: str) -> Sandbox | None:
        with self._transaction(writes=False) as connection:
            row = connection.execute(statements.at_address(address)).mappings().first()
            return sandbox_from_row(row) if row is not None else None

    @override
    async def secured_ids(self) -> Sequence[SandboxId]:
        with self._transaction(writes=False) as connection:
            return [SandboxId(row) for row in connection.execute(statements.secured_ids()).scalars()]

    @override
    async def next_deadline(self) -> Sandbox | None:
        with self._transaction(writes=False) as connection:
            row = connection.execute(statements.first_deadline()).mappings().first()
            return sandbox_from_row(row) if row is not None else None

    @override
    async def forget_sandboxes(self, *, ended_before: datetime, most: int) -> int:
        with self._transaction(writes=True) as connection:
            return connection.execute(statements.old_sandboxes(ended_before, most)).rowcount

    @override
    async def add_memory_kill(self, kill: ProcessKilledForMemory, *, keep: int) -> None:
        with self._transaction(writes=True) as connection:
            _check_there(connection, kill.sandbox_id)
            connection.execute(insert(memory_kills), memory_kill_to_row(kill))
            connection.execute(statements.kills_beyond(kill.sandbox_id, keep))

    @override
    async def memory_kills(self, sandbox_id: SandboxId) -> Sequence[ProcessKilledForMemory]:
        with self._transaction(writes=False) as connection:
            rows = connection.execute(statements.kills_in(sandbox_id)).mappings()
            return [memory_kill_from_row(row) for row in rows]

    @override
    async def add_api_key(self, key: ApiKey) -> None:
        with self._transaction(writes=True) as connection:
            if connection.execute(select(api_keys.c.hash).where(api_keys.c.hash == key.hash)).first():
                return
            row = {
                "hash": key.hash,
                "team_id": key.team_id,
                "name": key.name,
                "created_at": key.created_at,
            }
            connection.execute(insert(api_keys), row)

    @override
    async def drop_api_keys(self, team_id: TeamId, name: str) -> int:
        named = (api_keys.c.team_id == team_id) & (api_keys.c.name == name)
        with self._transaction(writes=True) as connection:
            return connection.execute(delete(api_keys).where(named)).rowcount

    @override
    async def find_api_key(self, hash: str) -> ApiKey | None:
        with self._transaction(writes=False) as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.hash == hash)).mappings().first()
            return api_key_from_row(row) if row is not None else None

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        assert self._engine is not None, "the store is not open"
        with (
            self._errors(),
            self._engine.connect().execution_options(**{_WRITES: writes}) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise self._translated(error) from error
        except ValueError as error:
            # A value that is no JSON, or no time; the driver does not say of which row.
            raise unreadable(str(self._path), error) from error

    def _translated(self, error: exc.DBAPIError) -> AtollError:
        name = str(getattr(error.orig, "sqlite_errorname", ""))
        details = f"{self._path}: {name}: {error.orig}"
        if name.startswith("SQLITE_FULL"):
            return ResourceExhaustedError(
                "The server's disk is full", details=details, resolution="Make room, then try again."
            )
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return UnavailableError(
                "The database is in use",
                details=details,
                resolution="End the other program that writes to it, then try again.",
            )
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return _damaged(details)
        return InternalError("The database failed", details=details)

    def _check_file(self, engine: Engine) -> None:
        with engine.connect() as connection:
            problem = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if problem != "ok":
            raise _damaged(f"{self._path}: {problem}")


def _damaged(details: str) -> InternalError:
    return InternalError(
        "The database is damaged",
        details=details,
        resolution="Put a backup in its place, or move it away: the next start then removes all sandboxes.",
    )


def _read(connection: Connection, sandbox_id: SandboxId) -> Sandbox:
    # FOR UPDATE means nothing to SQLite, whose writers take turns anyway.
    statement = select(sandboxes).where(sandboxes.c.id == sandbox_id).with_for_update()
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise NotFoundError(f"No row of sandbox {sandbox_id}")
    return sandbox_from_row(row)


def _check_there(connection: Connection, sandbox_id: SandboxId) -> None:
    if connection.execute(select(sandboxes.c.id).where(sandboxes.c.id == sandbox_id)).first() is None:
        raise NotFoundError(f"No row of sandbox {sandbox_id}")


def _add_pairs(connection: Connection, sandbox: Sandbox) -> None:
    pairs = [
        {"sandbox_id": sandbox.id, "key": key, "value": value} for key, value in sandbox.metadata.items()
    ]
    if pairs:
        connection.execute(insert(sandbox_metadata), pairs)


def _on_connect(connection: Any, _: object) -> None:
    # The driver would begin transactions when it sees fit; _on_begin does instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {int(BUSY_TIMEOUT.total_seconds() * 1000)}",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later could be refused in between; one that says
    # at once that it writes cannot.
    writes = connection.get_execution_options().get(_WRITES, True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
