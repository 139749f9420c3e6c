"""
Recipes: what a template is made from, as data.

A recipe is a folder with recipe.toml, and may have files/ (laid over the root) and setup (a script for the
new machine's shell, run as root inside). It may include other folders, whose packages, files and script come
first; what else an included recipe.toml says is that recipe's own.
Only reads and checks; what is done with it is builder.py's.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import atoll
from atoll.server.domain.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from atoll.server.domain.limits import Limits
from atoll.server.domain.template import StartCommand

MIB = 1024 * 1024
# A recipe lays over settings, not data: more is a mistake, and everything is read to be hashed.
MOST_FILES = 1000
MOST_BYTES = 16 * MIB
MOST_PACKAGES = 1000

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,39}")
_COMPONENT = re.compile(r"[a-z][a-z0-9-]{0,39}")
# As Debian's policy has it, with an architecture or a version behind.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}(:[a-z0-9]+)?(=[A-Za-z0-9.+~:-]+)?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_VARIANTS = ("minbase", "apt", "essential", "required", "important", "standard", "debootstrap")
_KEYS = {
    "description", "suite", "components", "variant", "packages", "include",
    "defaults", "limits", "env", "start",
}  # fmt: skip
# What a template may take to be ready at most: clients give up on a create after 60 s.
MOST_READY_S = 50
# The longest command; a script belongs into a file.
MOST_COMMAND = 4096


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """A file to lay over the root: where, and what is in it. It gets mode 0644 and belongs to root."""

    path: PurePosixPath
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """
    What a template is made from.

    Attributes:
        name: the folder's.
        description: one line for people.
        suite: of Debian, "trixie".
        components: of the archive.
        variant: mmdebstrap's.
        packages: installed beside what the variant has.
        files: laid over, the later ones over the earlier.
        scripts: run inside as root, in order, after the files are there.
        default_user: who runs commands that name nobody.
        default_workdir: where they run; empty: the user's home.
        limits: the size of sandboxes that name none.
        env: for every command inside.
        start: what runs in every sandbox from its creation on, and when it is ready; None: nothing.
    """

    name: str
    description: str
    suite: str
    components: tuple[str, ...]
    variant: str
    packages: tuple[str, ...]
    files: tuple[RecipeFile, ...]
    scripts: tuple[bytes, ...]
    default_user: str
    default_workdir: str
    limits: Limits
    env: tuple[tuple[str, str], ...]
    start: StartCommand | None = None

    def digest(self, *more: str) -> str:
        """
        Hash everything that the result depends on, as 64 hexadecimal digits.

        Args:
            more: what else it depends on.
        """
        parts: dict[str, object] = {
            "recipe": [
                self.name, self.suite, self.components, self.variant, sorted(self.packages),
                self.default_user, self.default_workdir, self.env,
            ],
            "limits": [
                self.limits.cpus, self.limits.memory_bytes, self.limits.processes, self.limits.disk_bytes,
            ],
            "files": [[str(file.path), hashlib.sha256(file.content).hexdigest()] for file in self.files],
            "scripts": [hashlib.sha256(script).hexdigest() for script in self.scripts],
            "more": more,
        }  # fmt: skip
        if self.start is not None:
            parts["start"] = [self.start.command, self.start.ready, self.start.timeout_s]
            if self.start.needs_env:
                parts["needs_env"] = True
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def recipes_directory() -> Path:
    """
    Return the folder with Atoll's own recipes: in the package, or beside src/ in a checkout.

    Raises:
        FailedPreconditionError: this installation has none.
    """
    package = Path(atoll.__file__).resolve().parent
    candidates = (package / "_templates", package.parents[1] / "templates")
    for path in candidates:
        if (path / "base" / "recipe.toml").is_file():
            return path
    raise FailedPreconditionError(
        "this installation has no template recipes",
        details=f"neither {candidates[0]} nor {candidates[1]} holds base/recipe.toml",
        resolution="install Atoll again",
    )


def recipe_names(directory: Path) -> list[str]:
    """List the recipes in a folder by name."""
    return sorted(path.parent.name for path in directory.glob("*/recipe.toml"))


def load_recipe(directory: Path, name: str) -> Recipe:
    """
    Read and check one recipe.

    Args:
        directory: holds the recipes' folders.
        name: the folder.

    Raises:
        NotFoundError: there is no such recipe.
        InvalidArgumentError: it cannot be what it should be; says which key or file.
    """
    path = directory / name / "recipe.toml"
    if not _NAME.fullmatch(name) or not path.is_file():
        raise NotFoundError(f"template {name[:64]!r} not found", details=f"no recipe at {path}")
    try:
        data = tomllib.loads(path.read_text())
    except (ValueError, OSError) as exc:
        raise InvalidArgumentError(f"{path} cannot be read", details=str(exc)) from exc
    try:
        return _parse(name, data, directory)
    except _Wrong as exc:
        raise InvalidArgumentError(f"{path}: {exc}") from exc


class _Wrong(Exception):  # noqa: N818  never leaves this file
    """What is wrong with a recipe, in words."""


def _parse(name: str, data: Mapping[str, Any], directory: Path) -> Recipe:
    if unknown := sorted(set(data) - _KEYS):
        raise _Wrong(f"unknown key {unknown[0]!r}")
    variant = _text(data, "variant", "minbase")
    if variant not in _VARIANTS:
        raise _Wrong(f"variant must be one of {', '.join(_VARIANTS)}")
    included = _texts(data, "include", _NAME)
    packages = (*_packages_of(directory, included), *_texts(data, "packages", _PACKAGE))
    if len(packages) > MOST_PACKAGES:
        raise _Wrong(f"more than {MOST_PACKAGES} packages")
    defaults = _table(data, "defaults", {"user", "workdir"})
    workdir = _text(defaults, "workdir", "")
    if workdir and not workdir.startswith("/"):
        raise _Wrong("defaults.workdir must start with '/'")
    layers = [directory / folder for folder in (*included, name)]
    return Recipe(
        name=name,
        description=_text(data, "description", ""),
        suite=_match(_text(data, "suite", "trixie"), _SUITE, "suite"),
        components=_texts(data, "components", _COMPONENT) or ("main",),
        variant=variant,
        packages=packages,
        files=_files(layers),
        scripts=tuple(script.read_bytes() for layer in layers if (script := layer / "setup").is_file()),
        default_user=_match(_text(defaults, "user", "user"), _USER, "defaults.user"),
        default_workdir=workdir,
        limits=_limits(_table(data, "limits", {"cpus", "memory_mib", "processes", "disk_mib"})),
        env=_env(_table(data, "env", None)),
        start=_start(data),
    )


def _packages_of(directory: Path, included: tuple[str, ...]) -> tuple[str, ...]:
    """Return the packages of the included folders that are recipes themselves."""
    found: dict[str, None] = {}
    for folder in included:
        path = directory / folder / "recipe.toml"
        if path.is_file():
            try:
                data = tomllib.loads(path.read_text())
            except ValueError as exc:
                raise _Wrong(f"include: {folder}/recipe.toml cannot be read: {exc}") from exc
            found |= dict.fromkeys(_texts(data, "packages", _PACKAGE))
    return tuple(found)


def _start(data: Mapping[str, Any]) -> StartCommand | None:
    if "start" not in data:
        return None
    table = _table(data, "start", {"command", "ready", "timeout_s", "needs_env"})
    command, ready = _text(table, "command", ""), _text(table, "ready", "")
    for key, value in (("command", command), ("ready", ready)):
        if not value or len(value) > MOST_COMMAND or "\0" in value:
            raise _Wrong(f"start.{key} must be a command of at most {MOST_COMMAND} letters")
    timeout = table.get("timeout_s", 30)
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 1 <= timeout <= MOST_READY_S:
        raise _Wrong(f"start.timeout_s must be a whole number from 1 to {MOST_READY_S}")
    needs_env = table.get("needs_env", False)
    if not isinstance(needs_env, bool):
        raise _Wrong("start.needs_env must be true or false")
    return StartCommand(command=command, ready=ready, timeout_s=timeout, needs_env=needs_env)


def _files(layers: list[Path]) -> tuple[RecipeFile, ...]:
    found: dict[PurePosixPath, bytes] = {}
    total = 0
    for layer in layers:
        if not layer.is_dir():
            raise _Wrong(f"include: there is no folder {layer.name!r}")
        root = layer / "files"
        for path in sorted(root.rglob("*")):
            if path.is_symlink():
                # A wheel cannot hold them.
                raise _Wrong(f"{path} is a link; make it in the script 'setup'")
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            if not path.is_file():
                raise _Wrong(f"{path} is not a file")
            total += path.stat().st_size
            if total > MOST_BYTES or len(found) >= MOST_FILES:
                raise _Wrong(f"files: more than {MOST_FILES} files or {MOST_BYTES} bytes")
            found[PurePosixPath(path.relative_to(root).as_posix())] = path.read_bytes()
    return tuple(RecipeFile(path=path, content=content) for path, content in sorted(found.items()))


def _limits(table: Mapping[str, Any]) -> Limits:
    return Limits(
        cpus=_number(table, "cpus", 2, least=0.05),
        memory_bytes=int(_number(table, "memory_mib", 1024, least=16)) * MIB,
        processes=int(_number(table, "processes", 1024, least=16)),
        disk_bytes=int(_number(table, "disk_mib", 10240, least=16)) * MIB,
    )


def _env(table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    for key, value in table.items():
        _match(key, _ENV_NAME, "env")
        # It also goes to /etc/environment, where a line is a variable and quotes are read in several ways.
        if not isinstance(value, str) or re.search(r"[\x00-\x1f\x7f'\"\\#$]", value):
            raise _Wrong(f"env.{key} must be a text without quotes, '#', '$' and control characters")
    return tuple(sorted(table.items()))


def _number(table: Mapping[str, Any], key: str, default: float, *, least: float) -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 2**40:
        raise _Wrong(f"limits.{key} must be a number of at least {least}")
    return value


def _table(data: Mapping[str, Any], key: str, known: set[str] | None) -> Mapping[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise _Wrong(f"{key} must be a table")
    if known is not None and (unknown := sorted(set(value) - known)):
        raise _Wrong(f"unknown key '{key}.{unknown[0]}'")
    return value


def _text(data: Mapping[str, Any], key: str, default: str) -> str:
    value = data.get(key, default)
    if not isinstance(value, str):
        raise _Wrong(f"{key} must be a text")
    return value


def _texts(data: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Wrong(f"{key} must be a list of texts")
    return tuple(_match(item, pattern, key) for item in value)


def _match(value: str, pattern: re.Pattern[str], key: str) -> str:
    if not pattern.fullmatch(value):
        raise _Wrong(f"{key}: {value[:64]!r} is not allowed")
    return value
