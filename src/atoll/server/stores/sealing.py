"""
Encrypts what lies in the database and nobody is to read there: AES-GCM, by PyCA's cryptography.

The key derives from the home's secret: a copy of the database alone shows nothing.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from atoll.server.domain.errors import InternalError

# As NIST has it for GCM; random ones are safe for 2^32 values under one key.
_NONCE_BYTES = 12


class Seal:
    """Encrypts and decrypts for one purpose."""

    def __init__(self, secret: bytes, purpose: str) -> None:
        """
        Args:
            secret: the home's; 32 bytes.
            purpose: keys of different purposes differ.
        """
        key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose.encode()).derive(secret)
        self._cipher = AESGCM(key)

    def close(self, text: str, place: str) -> bytes:
        """Encrypt; it can be read again for the same place only, so that rows cannot be swapped."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), place.encode())

    def open(self, sealed: bytes, place: str) -> str:
        """
        Decrypt.

        Raises:
            InternalError: it was not encrypted for this place, or with this key.
        """
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, rest, place.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise InternalError(
                "A secret cannot be read",
                details=place,
                resolution="Was the home's file `secret` replaced? Set the secret's value again.",
            ) from error
