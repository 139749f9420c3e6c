"""Keys that sign tokens of sandboxes: RSA, encrypted in the database; tokens by PyJWT."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import RSAAlgorithm
from sqlalchemy import delete, insert, select
from typing_extensions import override

from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.identity import SigningKey
from atoll.server.ports.identity import SigningKeys
from atoll.server.stores.database import Database
from atoll.server.stores.sealing import Seal
from atoll.server.stores.tables import signing_keys

_PURPOSE = "atoll: keys that sign tokens of sandboxes, 1"
# What every verifier takes: AWS, Google and Azure, of which the last knows nothing else.
ALGORITHM = "RS256"
_BITS = 2048
_EXPONENT = 65537


class SqliteSigningKeys(SigningKeys):
    """Keys in the database."""

    def __init__(self, database: Database, *, secret: bytes) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
            secret: the home's; 32 bytes.
        """
        self._database = database
        self._seal = Seal(secret, _PURPOSE)
        # Reading a private key checks it, which takes as long as twenty signatures.
        self._opened: dict[str, RSAPrivateKey] = {}

    @override
    async def list_keys(self) -> Sequence[SigningKey]:
        statement = select(signing_keys).order_by(signing_keys.c.created_at, signing_keys.c.id)
        with self._database.transaction(writes=False) as connection:
            return [
                SigningKey(id=row["id"], created_at=row["created_at"], public=row["public"])
                for row in connection.execute(statement).mappings()
            ]

    @override
    async def make_key(self, now: datetime) -> SigningKey:
        key_id = str(uuid.uuid4())
        # Looking for primes takes a while.
        private = await asyncio.to_thread(generate_private_key, _EXPONENT, _BITS)
        public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        made = SigningKey(
            id=key_id, created_at=now, public={name: public[name] for name in ("kty", "n", "e")}
        )
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        row = {
            "id": key_id,
            "created_at": now,
            "public": dict(made.public),
            "sealed": self._seal.close(pem, key_id),
        }
        with self._database.transaction(writes=True) as connection:
            connection.execute(insert(signing_keys), row)
        return made

    @override
    async def drop_keys(self, key_ids: Sequence[str]) -> None:
        with self._database.transaction(writes=True) as connection:
            connection.execute(delete(signing_keys).where(signing_keys.c.id.in_(key_ids)))
        for key_id in key_ids:
            self._opened.pop(key_id, None)

    @override
    async def sign(self, key_id: str, claims: Mapping[str, Any]) -> str:
        private = self._opened.get(key_id) or self._open(key_id)
        return jwt.encode(dict(claims), private, algorithm=ALGORITHM, headers={"kid": key_id})

    def _open(self, key_id: str) -> RSAPrivateKey:
        statement = select(signing_keys.c.sealed).where(signing_keys.c.id == key_id)
        with self._database.transaction(writes=False) as connection:
            sealed = connection.execute(statement).scalar_one_or_none()
        if sealed is None:
            raise NotFoundError(f"Signing key {key_id[:64]!a} not found")
        private = load_pem_private_key(self._seal.open(sealed, key_id).encode(), None)
        assert isinstance(private, RSAPrivateKey)
        self._opened[key_id] = private
        return private
