"""Puts settings together from file and environment; what does not fit is named, never guessed at."""

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.settings import Settings
from atoll.server.settings.fields import Setting, settings

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
# About a hundred years; beyond, adding it to a date is an error.
_LONGEST = timedelta(days=36_500)


def load(file: Path, environment: Mapping[str, str]) -> Settings:
    """
    Read the settings.

    Args:
        file: settings.toml; need not exist.
        environment: variables; those without a setting are none of ours, and not looked at.

    Raises:
        InvalidArgumentError: the file is no TOML, or names what does not exist, or a value does not fit.
    """
    values: dict[str, dict[str, Any]] = {}
    known = {(setting.group, setting.name): setting for setting in settings()}
    for group, table in _read(file).items():
        if not isinstance(table, dict):
            raise _unknown(file, group, {setting.group for setting in known.values()})
        for name, value in table.items():
            setting = known.get((group, name))
            if setting is None:
                names = {f"{one.group}.{one.name}" for one in known.values()}
                raise _unknown(file, f"{group}.{name}", names)
            values.setdefault(group, {})[name] = _fit(setting, value, f"{file}: {group}.{name}")
    for setting in known.values():
        text = environment.get(setting.variable)
        if text is not None:
            values.setdefault(setting.group, {})[setting.name] = _fit(
                setting, _parse(setting, text), setting.variable
            )
    kinds = get_type_hints(Settings)
    return dataclasses.replace(
        Settings(), **{group: kinds[group](**table) for group, table in values.items()}
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{file} is no TOML", details=str(error)) from error


def _unknown(file: Path, name: str, names: set[str]) -> InvalidArgumentError:
    close = difflib.get_close_matches(name, names, n=1)
    return InvalidArgumentError(
        f"{file}: there is no setting {name!r}",
        resolution=f"Did you mean {close[0]}?" if close else "docs/settings.md lists them all.",
    )


def _parse(setting: Setting, text: str) -> Any:
    if setting.kind is bool:
        return {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)
    if setting.kind in (int, float):
        try:
            return setting.kind(text)
        except ValueError:
            return text
    return text


def _fit(setting: Setting, value: Any, where: str) -> Any:
    kind: type[Any] = setting.kind
    if kind is timedelta:
        value = _to_duration(value)
    elif kind is float and type(value) is int:
        value = float(value)
    # A bool is an int to Python, and a mistake here.
    if type(value) is not kind:
        raise InvalidArgumentError(
            f"{where}: {value!r} does not fit", resolution=f"Write it like {setting.shown_default}."
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"{where}: {value!r} is no number to work with")
    if isinstance(value, int | float) and value < 0:
        raise InvalidArgumentError(f"{where}: {value!r} is negative")
    if isinstance(value, timedelta) and value > _LONGEST:
        raise InvalidArgumentError(f"{where}: {value!r} is longer than a hundred years")
    return value


def _to_duration(value: Any) -> Any:
    if type(value) in (int, float) and 0 <= value <= _LONGEST.total_seconds():
        return timedelta(seconds=value)
    if isinstance(value, str):
        if found := _DURATION.fullmatch(value):
            return timedelta(seconds=min(float(found[1]) * _UNITS[found[2]], 1e10))
        try:
            return _to_duration(float(value)) if not value.isalpha() else value
        except ValueError:
            return value
    return value
