"""What only a file can do: outlive a process, be damaged, be too new, be in use."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from contract import test_store
from fakes.events import sandboxes_in
from sqlalchemy import create_engine
from support.sources import PYTHONPATH

from atoll.server.domain.errors import FailedPreconditionError, InternalError, UnavailableError
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.ingress import IngressPolicy
from atoll.server.domain.keys import DEFAULT_TEAM
from atoll.server.domain.machine import ProcessKilledForMemory
from atoll.server.domain.sandbox import Status
from atoll.server.ports.store import Page, SandboxFilter
from atoll.server.stores import database as database_module
from atoll.server.stores import migrating, statements
from atoll.server.stores.database import Database
from atoll.server.stores.migrating import MIGRATIONS
from atoll.server.stores.tables import metadata

# Of the team that is there from the beginning.
make = partial(test_store.make, team_id=DEFAULT_TEAM)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "100% odd name.db"


async def filled(path: Path) -> None:
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)
    await store.add_sandbox(make())
    await database.close()


async def test_migrations_make_the_tables_that_the_code_expects(path: Path) -> None:
    await filled(path)

    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)

    engine.dispose()
    assert differences == []


def downgrade(path: Path, revision: str) -> None:
    """Take the tables back to what an older version made."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()


async def test_rows_of_the_first_tables_are_kept_and_get_the_later_ones(path: Path) -> None:
    row = make(ingress=IngressPolicy())
    database = Database(path)
    await database.open()
    first = sandboxes_in(database)
    await first.add_sandbox(row)
    await database.close()
    downgrade(path, "0001")

    database = Database(path)
    await database.open()
    later = sandboxes_in(database)

    assert await later.get_sandbox(row.id) == row
    killed = ProcessKilledForMemory(sandbox_id=row.id, pid=1, command="c", resident_bytes=1)
    await later.add_memory_kill(killed, keep=1)
    assert await later.memory_kills(row.id) == [killed]
    await database.close()


async def test_only_the_owner_may_read_the_file(path: Path) -> None:
    await filled(path)

    assert path.stat().st_mode & 0o777 == 0o600


async def test_rows_are_there_after_kill_9(path: Path) -> None:
    program = f"""
import asyncio, os, signal
from contract.test_store import make
from fakes.events import sandboxes_in
from atoll.server.stores.migrating import MIGRATIONS
from atoll.server.stores.database import Database
from pathlib import Path
async def main():
    database = Database(Path({str(path)!r}))
    await database.open()
    store = sandboxes_in(database)
    for number in range(50):
        row = make(number, team_id="default")
        await store.add_sandbox(row)
        os.write(1, (row.id + "\\n").encode())
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        timeout=60,
    )
    assert done.returncode == -9, done.stderr

    database = Database(path)
    await database.open()
    store = sandboxes_in(database)
    rows = await store.list_sandboxes(SandboxFilter(), Page(newest_first=False))
    await database.close()

    assert [row.id for row in rows] == done.stdout.split()
    assert len(rows) == 50


async def test_opening_twice_keeps_the_rows(path: Path) -> None:
    await filled(path)
    await filled(path)

    database = Database(path)
    await database.open()
    store = sandboxes_in(database)
    assert await store.count_sandboxes(SandboxFilter()) == 2
    await database.close()


async def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.write_bytes(b"this is not a database, but it is long enough to look at" * 100)

    with pytest.raises(InternalError, match="damaged") as caught:
        await Database(path).open()

    assert str(path) in str(caught.value.details)
    assert caught.value.resolution


async def test_a_damaged_page_is_found_at_the_start(path: Path) -> None:
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)
    for number in range(200):
        await store.add_sandbox(make(number))
    await database.close()
    content = bytearray(path.read_bytes())
    page = 4096
    for start in range(10 * page, len(content), page):
        content[start : start + page] = os.urandom(page)
    path.write_bytes(content)

    with pytest.raises(InternalError, match="damaged"):
        await Database(path).open()


def test_the_newest_migration_is_named_as_alembic_names_it() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    assert migrating.newest() == ScriptDirectory.from_config(config).get_current_head()


async def test_a_database_that_is_up_to_date_is_opened_without_alembic(path: Path) -> None:
    await filled(path)
    program = f"""
import asyncio, sys
from pathlib import Path
from atoll.server.stores.database import Database
asyncio.run(Database(Path({str(path)!r})).open())
assert "alembic" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr


async def test_a_newer_database_is_refused(path: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
        connection.commit()

    with pytest.raises(FailedPreconditionError, match="newer version"):
        await Database(path).open()


@pytest.mark.parametrize(
    "damage",
    [
        "status = 'sleeping'",
        "metadata = 'no json'",
        "metadata = '[1]'",
        "egress = '{\"x\": 1}'",
        "env = '{\"a\": 1}'",
    ],
)
async def test_a_row_that_makes_no_sense_is_named(path: Path, damage: str) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"update sandboxes set {damage}")
        connection.commit()
        (sandbox_id,) = connection.execute("select id from sandboxes").fetchone()
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)

    with pytest.raises(InternalError, match="cannot be read") as caught:
        await store.list_sandboxes(SandboxFilter(), Page())

    await database.close()
    wanted = str(path) if damage == "metadata = 'no json'" else sandbox_id
    assert wanted in str(caught.value.details)


async def test_another_writer_is_waited_for_and_then_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", database_module.BUSY_TIMEOUT / 100)
    await filled(path)
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin immediate")

        with pytest.raises(UnavailableError, match="in use"):
            await store.add_sandbox(make())
        assert await store.count_sandboxes(SandboxFilter()) == 1

        other.execute("rollback")
    await store.add_sandbox(make())
    await database.close()


async def test_a_failed_write_leaves_nothing_behind(path: Path) -> None:
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)
    good = make()
    await store.add_sandbox(good)

    # The row is written, its metadata is refused: half a row must not stay.
    with pytest.raises(Exception, match="NOT NULL"):
        await store.add_sandbox(make(metadata={"a": None}))
    with pytest.raises(Exception, match="zone"):
        await store.replace_sandbox(good, replace(good, deadline=datetime(2026, 1, 1)))  # noqa: DTZ001

    rows = await store.list_sandboxes(SandboxFilter(), Page())
    await database.close()
    assert rows == [good]


async def test_a_transaction_that_cannot_be_committed_is_in_nobodys_way(path: Path) -> None:
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)

    def break_a_promise() -> None:
        with database.transaction(writes=True) as connection:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            connection.exec_driver_sql("INSERT INTO sandbox_metadata VALUES ('nobody', 'a', 'b')")

    with pytest.raises(InternalError, match="database failed"):
        break_a_promise()

    await store.add_sandbox(make())
    rows = await store.list_sandboxes(SandboxFilter(), Page())
    await database.close()
    assert len(rows) == 1


async def test_an_interrupt_amidst_a_statement_is_the_interrupt_and_the_next_transaction_works(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def write() -> None:
        with monkeypatch.context() as patch, database.transaction(writes=True) as connection:
            connection.exec_driver_sql("DELETE FROM teams")
            patch.setattr(connection.dialect, "do_execute", interrupted)
            connection.exec_driver_sql("DELETE FROM teams WHERE id = ?", ("a",))

    with pytest.raises(KeyboardInterrupt):
        write()

    await store.add_sandbox(make())
    rows = await store.list_sandboxes(SandboxFilter(), Page())
    await database.close()
    assert len(rows) == 1


async def test_a_transaction_in_a_transaction_is_refused_and_both_are_undone(path: Path) -> None:
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)

    async def nest() -> None:
        with database.transaction(writes=True) as connection:
            connection.exec_driver_sql("DELETE FROM teams")
            await store.list_sandboxes(SandboxFilter(), Page())

    with pytest.raises(InternalError, match="database failed"):
        await nest()

    await store.add_sandbox(make())
    rows = await store.list_sandboxes(SandboxFilter(), Page())
    await database.close()
    assert len(rows) == 1


async def test_questions_are_answered_from_indexes(path: Path) -> None:
    await filled(path)
    team, running = TeamId("t"), frozenset({Status.RUNNING})
    questions = {
        "sandboxes_by_deadline": statements.first_deadline(),
        "sandboxes_by_status": statements.page_of_sandboxes(
            SandboxFilter(team_id=team, statuses=running), Page()
        ),
        "sandboxes_by_team": statements.page_of_sandboxes(SandboxFilter(team_id=team), Page()),
        "memory_kills_by_sandbox": statements.kills_in(SandboxId("i")),
        "sandbox_metadata": statements.page_of_sandboxes(SandboxFilter(metadata=(("a", "b"),)), Page()),
    }
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        for index, question in questions.items():
            sql = question.compile(engine, compile_kwargs={"literal_binds": True})
            plan = str(connection.exec_driver_sql(f"explain query plan {sql}").fetchall())
            assert f"INDEX {index}" in plan or f"autoindex_{index}" in plan, plan
            assert "metadata" in index or "TEMP B-TREE" not in plan, plan
    engine.dispose()


async def test_time_is_kept_to_the_microsecond(path: Path) -> None:
    moment = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    database = Database(path)
    await database.open()
    store = sandboxes_in(database)
    row = make(created_at=moment)
    await store.add_sandbox(row)

    assert (await store.get_sandbox(row.id)).created_at == moment
    await database.close()
