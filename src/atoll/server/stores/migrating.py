"""Brings a database's tables up to date, with the migrations that ship beside this file."""

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from atoll.server.domain.errors import FailedPreconditionError

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> None:
    """
    Run the migrations that a database lacks, in one transaction.

    Raises:
        FailedPreconditionError: the tables were made by a newer version of Atoll.
    """
    with engine.connect() as connection:
        if _revision(connection) == newest():
            return
    # Not before: loading Alembic is a sixth of a server's start, and seldom is there anything to do.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    # "%" begins a variable in Alembic's configuration.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise FailedPreconditionError(
                "The database belongs to a newer version of Atoll",
                details=str(error),
                resolution="Install that version again, or use another home.",
            ) from error


def newest() -> str:
    """Name the last migration: its file's name begins with it."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _revision(connection: Connection) -> str | None:
    """Read how far a database is; None: it is new."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return str(found) if found is not None else None
