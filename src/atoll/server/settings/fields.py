"""What settings there are: names, types, defaults and docs, read off the dataclasses themselves."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_type_hints

from atoll.server.settings import Settings

# Settings of this group have no group in the names of their variables: ATOLL_LISTEN.
PLAIN_GROUP = "server"

_ATTRIBUTE = re.compile(r"^ {4}(\w+): ")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """
    One setting.

    Attributes:
        group: the table in settings.toml.
        name: the key in it.
        kind: int, float, bool, str or timedelta.
        default: shown and used when nothing else is said.
        shown_default: for a default that depends on the machine: what it is made from.
        doc: unit, meaning and reason.
    """

    group: str
    name: str
    kind: type[Any]
    default: Any
    shown_default: str
    doc: str

    @property
    def variable(self) -> str:
        """The environment variable."""
        words = (self.name,) if self.group == PLAIN_GROUP else (self.group, self.name)
        return "_".join(("ATOLL", *words)).upper()


def groups() -> Iterator[tuple[str, type[Any], str]]:
    """List the groups: name, dataclass, and what it is about."""
    for name, group in get_type_hints(Settings).items():
        yield name, group, (inspect.getdoc(group) or "").split("\n\nAttributes:")[0].strip()


def settings() -> Iterator[Setting]:
    """List all settings."""
    for name, group, _ in groups():
        yield from _settings_of(name, group)


def _settings_of(group: str, cls: type[Any]) -> Iterator[Setting]:
    kinds = get_type_hints(cls)
    docs = _attribute_docs(cls)
    for field in dataclasses.fields(cls):
        default = (
            field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        )
        yield Setting(
            group=group,
            name=field.name,
            kind=kinds[field.name],
            default=default,
            shown_default=field.metadata.get("shown_default") or shown(default),
            doc=docs.get(field.name, ""),
        )


def shown(value: Any) -> str:
    """Write a value as settings.toml takes it."""
    if isinstance(value, timedelta):
        return f'"{_duration(value)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)


def _duration(value: timedelta) -> str:
    milliseconds = value // timedelta(milliseconds=1)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds >= 2 * size and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def _attribute_docs(cls: type[Any]) -> dict[str, str]:
    lines = (inspect.getdoc(cls) or "").splitlines()
    if "Attributes:" not in lines:
        return {}
    docs: dict[str, list[str]] = {}
    name = ""
    for line in lines[lines.index("Attributes:") + 1 :]:
        if found := _ATTRIBUTE.match(line):
            name = found[1]
            docs[name] = [line[found.end() :].strip()]
        elif name:
            docs[name].append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in docs.items()}
