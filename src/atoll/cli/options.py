"""Options that several verbs share, and the parsing of what follows them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_HOME = Path("/var/lib/atoll")


def home(function: F) -> F:
    """Take --home."""
    return click.option(
        "--home",
        # Whether we may read it is said by those who do, with what to do about it.
        type=click.Path(path_type=Path, file_okay=False, readable=False),
        default=DEFAULT_HOME,
        envvar="ATOLL_HOME",
        show_default=True,
        help="The directory that holds all of this server.",
    )(function)


def home_words(home: Path) -> str:
    """Return what a verb needs behind it to mean this home."""
    return "" if home == DEFAULT_HOME else f" --home {home}"


def as_json(function: F) -> F:
    """Take --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def creation(function: F) -> F:
    """Take the options of a new sandbox."""
    for option in (
        click.option("--memory", "memory_mb", type=click.IntRange(1), metavar="MIB", help="Memory, in MiB."),
        click.option("--cpus", type=click.FloatRange(0, min_open=True), help="Processor time, in cores."),
        click.option("--no-internet", is_flag=True, help="Cut it off from the internet."),
        click.option(
            "--volume",
            "-v",
            "volume",
            multiple=True,
            metavar="NAME:PATH",
            help="Have it see a volume there: files that outlive it.",
        ),
        click.option(
            "--env", "-e", "env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable inside."
        ),
        click.option("--template", "-t", default="base", show_default=True, help="What it starts from."),
    ):
        function = option(function)
    return function


def volumes(words: Sequence[str]) -> dict[str, str]:
    """
    Read VOLUME:PATH words, as ``Sandbox.create`` takes them.

    Raises:
        click.BadParameter: a word of another form, or a path twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, colon, path = word.partition(":")
        if not (name and colon and path):
            raise click.BadParameter(f"{word!r} is not NAME:PATH", param_hint="--volume")
        if path in found:
            raise click.BadParameter(f"{path!r} is there twice", param_hint="--volume")
        found[path] = name
    return found


def pairs(words: Sequence[str], what: str) -> dict[str, str]:
    """
    Read NAME=VALUE words.

    Raises:
        click.BadParameter: a word without a sign of equality, or without a name.
    """
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not name or not sign:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE", param_hint=what)
        found[name] = value
    return found


def environment(words: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE words; a NAME alone takes its value from this machine's environment."""
    whole = [
        word if "=" in word else f"{word}={os.environ[word]}"
        for word in words
        if "=" in word or word in os.environ
    ]
    missing = [word for word in words if "=" not in word and word not in os.environ]
    if missing:
        raise click.BadParameter(f"{missing[0]!r} is not set here", param_hint="--env")
    return pairs(whole, "--env")
