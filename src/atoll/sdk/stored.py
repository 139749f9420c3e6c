"""
From the wire's words to the SDK's models, of what outlives sandboxes: volumes and secrets. Pure functions.
"""

import stat
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from atoll.sdk import models
from atoll.sdk.errors import InvalidArgumentError
from atoll.sdk.wire import strange

# Longer than any name; keeps absurd ones out of addresses.
_MOST_REFERENCE = 256


@dataclass(frozen=True, kw_only=True)
class OpenedVolume:
    """A volume, and what opens its contents."""

    info: models.VolumeInfo
    token: str = field(repr=False)


def reference(word: str) -> str:
    """
    Write a name or an id as a part of an address.

    Raises:
        InvalidArgumentError: nothing is called that.
    """
    if not 0 < len(word) <= _MOST_REFERENCE:
        raise InvalidArgumentError(f"A name or an id has 1 to {_MOST_REFERENCE} characters.")
    try:
        # A dot or two alone would name another address.
        return quote(word, safe="").replace(".", "%2E")
    except UnicodeEncodeError:
        raise InvalidArgumentError("A name is not valid Unicode.") from None


def volume(answer: Any) -> models.VolumeInfo:
    """
    Read a volume.

    Raises:
        InternalError: the answer has another form.
    """
    try:
        return models.VolumeInfo(
            id=answer["id"],
            name=answer["name"],
            size_bytes=int(answer["size_bytes"]),
            created_at=datetime.fromisoformat(answer["created_at"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def opened_volume(answer: Any) -> OpenedVolume:
    """Read a volume with its token."""
    info = volume(answer)
    try:
        return OpenedVolume(info=info, token=str(answer["token"]))
    except KeyError as error:
        raise strange(error) from error


def volume_page(answer: Any) -> tuple[list[models.VolumeInfo], str | None]:
    """Read a part of a list, and the token for the next part."""
    try:
        return [volume(one) for one in answer["volumes"]], answer["next_page_token"]
    except (KeyError, TypeError) as error:
        raise strange(error) from error


def secret(answer: Any) -> models.SecretInfo:
    """Read what is known of a secret."""
    try:
        return models.SecretInfo(
            id=answer["id"],
            name=answer["name"],
            version=int(answer["version"]),
            metadata=dict(answer["metadata"]),
            created_at=datetime.fromisoformat(answer["created_at"]),
            updated_at=datetime.fromisoformat(answer["updated_at"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def secret_page(answer: Any) -> tuple[list[models.SecretInfo], str | None]:
    """Read a part of a list, and the token for the next part."""
    try:
        return [secret(one) for one in answer["secrets"]], answer["next_page_token"]
    except (KeyError, TypeError) as error:
        raise strange(error) from error


_TYPES = {
    "file": (models.FileType.FILE, stat.S_IFREG),
    "directory": (models.FileType.DIRECTORY, stat.S_IFDIR),
    "symlink": (models.FileType.SYMLINK, stat.S_IFLNK),
}


def content(answer: Any) -> models.FileInfo:
    """Read an entry of a volume."""
    try:
        kind, bits = _TYPES.get(answer["type"], (models.FileType.OTHER, 0))
        mode = int(answer["mode"])
        return models.FileInfo(
            name=answer["name"],
            path=answer["path"],
            type=kind,
            size=int(answer["size"]),
            mode=mode,
            permissions=stat.filemode(bits | mode),
            owner=str(answer["uid"]),
            group=str(answer["gid"]),
            modified_at=_moment(answer["mtime"]),
            symlink_target=answer.get("target"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def contents(answer: Any) -> list[models.FileInfo]:
    """Read a list of entries, in the order of their paths."""
    try:
        return sorted((content(one) for one in answer), key=lambda one: one.path)
    except TypeError as error:
        raise strange(error) from error


def _moment(text: str) -> datetime | None:
    """Read a time that a guest chose: it may be a year that no calendar of ours has."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
