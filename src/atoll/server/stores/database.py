"""
The database, one SQLite file: opening it, transactions, and what goes wrong with it.

Calls run inline, on the event loop's own thread: a commit in WAL mode costs 0.02 ms, a hop to a
thread and back costs more, and a call that never yields needs no care about what happens meanwhile.
There is one connection, which is never given back to SQLAlchemy's pool, and transactions are begun and ended
by the driver: the same through SQLAlchemy took a third of the processor time of a create's rows.
Nothing here knows a table: each noun has its own store beside this file, all over one ``Database``.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.pool import StaticPool

from atoll.server.domain.errors import (
    AtollError,
    InternalError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.stores import migrating

log = structlog.get_logger(__name__)

# What a server's files hold beforehand: hundreds of kills, each of which takes some 20 KB there.
SPARE_BYTES = 4 * 1024 * 1024

# How long to wait for another process that writes (a backup, an operator's shell). The event loop
# stands still meanwhile; nobody else writes in normal use.
BUSY_TIMEOUT = timedelta(seconds=2)


class Database:
    """
    Rows in a file, or in memory for tests.

    A commit survives the end of this process, kill -9 too. It may not survive a power cut, which
    no sandbox survives either: what then is on the disk without a row is removed at the next start.
    """

    def __init__(self, path: Path | None, *, spare_bytes: int = 0) -> None:
        """
        Args:
            path: the file; made with mode 0600 if missing. None: in memory.
            spare_bytes: room that the files take beforehand, so that rows can still be written when the disk
                is full: sandboxes that filled it must not be safe from being killed by that.
        """
        self._path = path
        self._spare_bytes = spare_bytes if path is not None else 0
        self._engine: Engine | None = None
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """
        Connect and bring the tables up to date.

        Raises:
            InternalError: the file is damaged.
            FailedPreconditionError: a newer version of Atoll wrote it.
            ResourceExhaustedError: the disk is full.
            UnavailableError: another program holds it.
        """
        if self._path is not None:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        engine = create_engine(
            f"sqlite:///{self._path}" if self._path else "sqlite://",
            # One thread, one transaction at a time: one connection.
            poolclass=StaticPool,
        )
        event.listen(engine, "connect", _on_connect)
        # An engine that anybody listens to is slower in all that it does.
        opening = engine.execution_options()
        event.listen(opening, "begin", _on_begin)
        self._engine = engine
        try:
            with self._errors():
                self._check_file(opening)
                migrating.upgrade(opening)
            if self._spare_bytes:
                self._take_room(engine)
            self._connection = engine.connect()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect; a no-op when it is not open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    @contextmanager
    def transaction(self, *, writes: bool) -> Iterator[Connection]:
        """
        Give a connection in a transaction of its own; it is committed at the end, undone by an error.

        Don't await inside, and read every answer to its end: everybody shares one connection.

        Args:
            writes: take the writers' turn at once.

        Raises:
            ResourceExhaustedError: the disk is full.
            UnavailableError: another program holds the file.
            InternalError: the database is damaged, or a value in it makes no sense.
        """
        connection = self._connection
        assert connection is not None, "the database is not open"
        driver: Any = connection.connection.dbapi_connection
        with self._errors():
            # A transaction that reads first and writes later could be refused in between; one that says
            # at once that it writes cannot.
            driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                yield connection
                driver.commit()
            except BaseException:
                if connection.invalidated:
                    # An interrupt amidst a statement: SQLAlchemy closed what is below, and opens it again.
                    connection.rollback()
                else:
                    driver.rollback()
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise self._translated(error.orig) from error
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except ValueError as error:
            # A value that is no JSON, or no time; the driver does not say of which row.
            raise unreadable(str(self._path), error) from error

    def _take_room(self, engine: Engine) -> None:
        """
        Write something large and take it out again: what it took stays in both files, and is used again.

        The log of writes begins anew at its start when all of it was copied; no block of it is given back.
        """
        connection = engine.raw_connection()
        try:
            # In two transactions: what one makes and drops itself is not written.
            for statement, values in (
                ("DROP TABLE IF EXISTS room", ()),
                ("CREATE TABLE room (bytes BLOB)", ()),
                ("INSERT INTO room VALUES (zeroblob(?))", (self._spare_bytes,)),
                ("DROP TABLE room", ()),
                ("PRAGMA wal_checkpoint(RESTART)", ()),
            ):
                connection.cursor().execute(statement, values)
        except sqlite3.Error as error:
            log.warning("no room kept for rows on a full disk", path=str(self._path), error=str(error))
        finally:
            connection.close()

    def _translated(self, error: BaseException | None) -> AtollError:
        name = str(getattr(error, "sqlite_errorname", ""))
        details = f"{self._path}: {name}: {error}"
        if name.startswith("SQLITE_FULL"):
            return ResourceExhaustedError(
                "The server's disk is full",
                details=details,
                resolution="Make room, then try again.",
                reason=Reason.DISK_FULL,
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


def unreadable(what: str, error: Exception) -> InternalError:
    """Say what cannot be read."""
    return InternalError(
        "A row of the database cannot be read",
        details=f"{what}: {type(error).__name__}: {error}",
        resolution="Was the database written by a newer version, or by hand? Repair or delete that row.",
    )


def _damaged(details: str) -> InternalError:
    return InternalError(
        "The database is damaged",
        details=details,
        resolution="Put a backup in its place, or move it away: the next start then removes all sandboxes.",
    )


def _on_connect(connection: Any, _: object) -> None:
    # The driver would begin transactions when it sees fit; Database and _on_begin do instead.
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
    connection.exec_driver_sql("BEGIN IMMEDIATE")
