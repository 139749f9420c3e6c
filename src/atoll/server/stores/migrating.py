"""Brings a database's tables up to date, with the migrations that ship beside this file."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Engine

from atoll.server.domain.errors import FailedPreconditionError

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> None:
    """
    Run the migrations that a database lacks, in one transaction.

    Raises:
        FailedPreconditionError: the tables were made by a newer version of Atoll.
    """
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
