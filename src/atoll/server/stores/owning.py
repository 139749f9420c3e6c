"""Whose a new row is: a team that is there, and stays. Asked in the transaction that writes the row."""

from sqlalchemy import Connection, bindparam, select

from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import TeamId
from atoll.server.stores.tables import teams

# Built once: every create asks.
_GOING = select(teams.c.deleting_since).where(teams.c.id == bindparam("id"))


def check_team(connection: Connection, team_id: TeamId) -> None:
    """
    Refuse a row for a team that is gone, or is being deleted: it would belong to nobody.

    Raises:
        NotFoundError: there is no such team.
    """
    row = connection.execute(_GOING, {"id": team_id}).first()
    if row is None or row.deleting_since is not None:
        raise NotFoundError(f"Team {team_id[:64]!a} not found")
