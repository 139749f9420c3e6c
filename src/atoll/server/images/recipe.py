"""
Recipes: what a template is made from, as data in ``templates/<name>/recipe.toml``.

A recipe names a Debian suite, packages, overlays and a size.
An overlay is a folder beside the recipes: ``files/`` is laid over the root, then ``setup`` runs inside.
"""

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.server.domain.errors import InvalidArgumentError, NotFoundError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits

MIB = 1024 * 1024
# Raised when the builder makes something else of the same recipe: old builds are then built anew.
BUILDER_VERSION = 1

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_KEYS = {"name", "suite", "packages", "overlays", "limits", "env", "default_user", "default_workdir"}
_LIMITS = {"cpus", "memory_mib", "processes", "disk_mib"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """
    One recipe.

    Attributes:
        name: of the template; lower-case letters, digits and dashes.
        suite: Debian's, "trixie".
        packages: Debian's, with all that they need.
        overlays: folders, in the order they are laid.
        limits: the size of sandboxes that name none.
        env: for every command inside.
        default_user: who runs commands that name nobody.
        default_workdir: where they run; empty: the user's home.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    overlays: tuple[Path, ...]
    limits: Limits
    env: tuple[tuple[str, str], ...]
    default_user: str
    default_workdir: str

    def template_id(self, *ingredients: str) -> TemplateId:
        """Name the build of this recipe with what else goes into it: another byte anywhere, another id."""
        digest = hashlib.sha256()
        for word in self._words():
            digest.update(word)
            digest.update(b"\0")
        for ingredient in ingredients:
            digest.update(ingredient.encode() + b"\0")
        return TemplateId(f"{self.name}-{digest.hexdigest()[:12]}")

    def _words(self) -> Iterator[bytes]:
        facts = (BUILDER_VERSION, os.uname().machine, self.name, self.suite, *self.packages, self.limits,
                 self.env, self.default_user, self.default_workdir)  # fmt: skip
        for fact in facts:
            yield repr(fact).encode()
        for overlay in self.overlays:
            for path in sorted(overlay.rglob("*")):
                mode = path.lstat().st_mode
                # Of the mode only what git keeps: other bits differ between checkouts.
                yield f"{path.relative_to(overlay)} {stat.S_IFMT(mode)} {mode & 0o100}".encode()
                if path.is_symlink():
                    yield os.fsencode(path.readlink())
                elif path.is_file():
                    yield path.read_bytes()


def load_recipe(recipes: Path, name: str) -> Recipe:
    """
    Read a recipe.

    Args:
        recipes: the folder with one folder for each recipe and overlay.
        name: of the recipe.

    Raises:
        NotFoundError: there is no such recipe.
        InvalidArgumentError: the recipe is not right; the message names the file and the key.
    """
    path = recipes / name / "recipe.toml"
    if not _NAME.fullmatch(name) or not path.is_file():
        raise NotFoundError(f"template '{name[:63]}' not found")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, str(error)) from error
    reader = _Reader(path, table)
    reader.only(_KEYS)
    if reader.text("name") != name:
        raise _wrong(path, f"name is {table['name']!r}, but the folder is {name!r}")
    packages = reader.words("packages")
    for package in packages:
        if not _PACKAGE.fullmatch(package):
            raise _wrong(path, f"packages: {package!r} is no name of a Debian package")
    return Recipe(
        name=name,
        suite=reader.text("suite"),
        packages=packages,
        overlays=tuple(_overlay(path, recipes, word) for word in reader.words("overlays")),
        limits=_limits(path, table.get("limits")),
        env=tuple(sorted(reader.mapping("env").items())),
        default_user=reader.text("default_user", "user"),
        default_workdir=reader.text("default_workdir", ""),
    )


def recipe_names(recipes: Path) -> Sequence[str]:
    """List the names of all recipes, sorted."""
    return sorted(path.parent.name for path in recipes.glob("*/recipe.toml"))


class _Reader:
    """Reads checked values; an error names the file and the key."""

    def __init__(self, path: Path, table: Mapping[str, Any]) -> None:
        self._path = path
        self._table = table

    def only(self, keys: set[str]) -> None:
        if unknown := sorted(set(self._table) - keys):
            raise _wrong(self._path, f"unknown key {unknown[0]!r}; there are {', '.join(sorted(keys))}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._table.get(key, default)
        if not isinstance(value, str) or "\0" in value or "\n" in value:
            raise _wrong(self._path, f"{key} must be a line of text")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise _wrong(self._path, f"{key} must be a list of texts")
        return tuple(value)

    def mapping(self, key: str) -> dict[str, str]:
        value = self._table.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(word, str) for word in value.values()):
            raise _wrong(self._path, f"{key} must be a table of texts")
        return value


def _overlay(path: Path, recipes: Path, word: str) -> Path:
    overlay = recipes / word
    if not _NAME.fullmatch(word) or not overlay.is_dir():
        raise _wrong(path, f"overlays: there is no folder {word!r} beside the recipes")
    return overlay


def _limits(path: Path, table: Any) -> Limits:
    if not isinstance(table, dict) or set(table) != _LIMITS:
        raise _wrong(path, f"limits must have exactly {', '.join(sorted(_LIMITS))}")
    for key, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise _wrong(path, f"limits.{key} must be a number above 0")
    return Limits(
        cpus=float(table["cpus"]),
        memory_bytes=int(table["memory_mib"]) * MIB,
        processes=int(table["processes"]),
        disk_bytes=int(table["disk_mib"]) * MIB,
    )


def _wrong(path: Path, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"The recipe {path.parent.name} is not right: {what}", details=str(path))
