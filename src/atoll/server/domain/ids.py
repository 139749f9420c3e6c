"""
The names of things: each kind of id is a type of its own.

An id that comes from outside goes through its ``parse_*`` function before anything else sees it.
"""

import re
import secrets
from typing import NewType

from atoll.server.domain.errors import InvalidArgumentError

SandboxId = NewType("SandboxId", str)
TemplateId = NewType("TemplateId", str)
TeamId = NewType("TeamId", str)
VolumeId = NewType("VolumeId", str)

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"

# "i" and 20 more, all of one length: runsc matches container ids by prefix,
# and E2B's clients accept lower-case letters and digits only.
_SANDBOX_ID = re.compile(r"i[a-z0-9]{20}")
_SANDBOX_ID_LENGTH = 21
_RANDOM_LENGTH = 20


_VOLUME_ID = re.compile(r"v[a-z0-9]{20}")


def new_sandbox_id() -> SandboxId:
    """Make an id that no other sandbox has."""
    return SandboxId("i" + _random())


def parse_sandbox_id(untrusted: str) -> SandboxId:
    """
    Check the form of a sandbox id.

    Accepts the old form ``<id>-<client id>`` and drops what is behind the dash.

    Raises:
        InvalidArgumentError: it has another form.
    """
    head, *rest = untrusted.split("-")
    if len(rest) > 1 or not _SANDBOX_ID.fullmatch(head):
        raise InvalidArgumentError(
            "Invalid sandbox ID",
            details=f"{untrusted[:64]!r} is not 'i' and {_SANDBOX_ID_LENGTH - 1} of [a-z0-9]",
        )
    return SandboxId(head)


def new_volume_id() -> VolumeId:
    """Make an id that no other volume has."""
    return VolumeId("v" + _random())


def parse_volume_id(untrusted: str) -> VolumeId:
    """
    Check the form of a volume's id.

    Raises:
        InvalidArgumentError: it has another form.
    """
    if not may_be_volume_id(untrusted):
        raise InvalidArgumentError(
            "Invalid volume ID", details=f"{untrusted[:64]!r} is not 'v' and 20 of [a-z0-9]"
        )
    return VolumeId(untrusted)


def may_be_volume_id(untrusted: str) -> bool:
    """Tell whether it has the form of a volume's id."""
    return _VOLUME_ID.fullmatch(untrusted) is not None


def _random() -> str:
    # One number, not one for each letter: that takes a tenth of the time.
    number, letters = secrets.randbelow(len(_ALPHABET) ** _RANDOM_LENGTH), []
    for _ in range(_RANDOM_LENGTH):
        number, place = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[place])
    return "".join(letters)
