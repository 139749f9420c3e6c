"""Secrets of teams; their values are encrypted."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from typing_extensions import override

from atoll.server.domain.errors import AlreadyExistsError, NotFoundError, Reason, ResourceExhaustedError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.secret import Secret
from atoll.server.ports.secrets import SecretStore
from atoll.server.stores.database import Database
from atoll.server.stores.owning import check_team
from atoll.server.stores.sealing import Seal
from atoll.server.stores.tables import secrets

_PURPOSE = "atoll: values of secrets, 1"


class SqliteSecrets(SecretStore):
    """Secrets in the database."""

    def __init__(self, database: Database, *, secret: bytes) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
            secret: the home's; 32 bytes.
        """
        self._database = database
        self._seal = Seal(secret, _PURPOSE)

    @override
    async def add_secret(self, secret: Secret, value: str, *, most: int) -> None:
        with self._database.transaction(writes=True) as connection:
            check_team(connection, secret.team_id)
            ours = secrets.c.team_id == secret.team_id
            if connection.execute(select(secrets.c.id).where(ours, secrets.c.name == secret.name)).first():
                raise AlreadyExistsError(f"Secret {secret.name!a} exists already")
            there = connection.execute(select(func.count()).select_from(secrets).where(ours)).scalar_one()
            if there >= most:
                raise ResourceExhaustedError(
                    f"The most secrets exist that a team may have ({most})",
                    resolution="Delete some, or raise max_secrets in the server's settings.",
                    reason=Reason.LIMIT_OF_SECRETS,
                )
            row = {
                "id": secret.id,
                "team_id": secret.team_id,
                "name": secret.name,
                "version": secret.version,
                "metadata": dict(secret.metadata),
                "created_at": secret.created_at,
                "updated_at": secret.updated_at,
                "sealed": self._seal.close(value, _place(secret.id, secret.version)),
            }
            connection.execute(insert(secrets), row)

    @override
    async def get_secret(self, team_id: TeamId, key: str) -> Secret:
        with self._database.transaction(writes=False) as connection:
            return _from_row(_read(connection, team_id, key))

    @override
    async def list_secrets(self, team_id: TeamId, *, after: str, limit: int) -> Sequence[Secret]:
        statement = (
            select(secrets)
            .where(secrets.c.team_id == team_id, secrets.c.name > after)
            .order_by(secrets.c.name)
            .limit(limit)
        )
        with self._database.transaction(writes=False) as connection:
            return [_from_row(row) for row in connection.execute(statement).mappings()]

    @override
    async def replace_value(
        self, team_id: TeamId, key: str, value: str, metadata: Mapping[str, str] | None, now: datetime
    ) -> Secret:
        with self._database.transaction(writes=True) as connection:
            old = _from_row(_read(connection, team_id, key))
            version = old.version + 1
            changes = {
                "version": version,
                "updated_at": now,
                "metadata": dict(old.metadata if metadata is None else metadata),
                "sealed": self._seal.close(value, _place(old.id, version)),
            }
            connection.execute(update(secrets).where(secrets.c.id == old.id).values(changes))
            return _from_row(_read(connection, team_id, old.id))

    @override
    async def delete_secret(self, team_id: TeamId, key: str) -> bool:
        with self._database.transaction(writes=True) as connection:
            return connection.execute(delete(secrets).where(*_called(team_id, key))).rowcount > 0

    @override
    async def secret_values(self, team_id: TeamId, names: Sequence[str]) -> Mapping[str, str]:
        statement = select(secrets).where(secrets.c.team_id == team_id, secrets.c.name.in_(names))
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(statement).mappings().all()
        return {
            row["name"]: self._seal.open(row["sealed"], _place(row["id"], row["version"])) for row in rows
        }


def _called(team_id: TeamId, key: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return secrets.c.team_id == team_id, or_(secrets.c.id == key, secrets.c.name == key)


def _read(connection: Connection, team_id: TeamId, key: str) -> RowMapping:
    row = connection.execute(select(secrets).where(*_called(team_id, key))).mappings().first()
    if row is None:
        raise NotFoundError(f"Secret {key[:64]!a} not found")
    return row


def _from_row(row: RowMapping) -> Secret:
    return Secret(
        id=row["id"],
        team_id=TeamId(row["team_id"]),
        name=row["name"],
        version=row["version"],
        metadata=dict(row["metadata"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _place(secret_id: str, version: int) -> str:
    return f"{secret_id} {version}"
