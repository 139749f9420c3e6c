"""``atoll secret``: values that requests of sandboxes carry. None is ever an argument: others see those."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from atoll import Secret
from atoll.cli import options, output

# More than any secret may have, so that a wrong file is not read whole.
_MOST_BYTES = 1024 * 1024


@click.group()
def secret() -> None:
    """Keep values for `--header`, which no sandbox sees; nothing shows a value again."""


def _value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take where a value comes from."""
    return click.option(
        "--file",
        "file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Read the value from a file; - is standard input.",
    )(function)


@secret.command()
@click.argument("name")
@_value
@click.option("--metadata", "-m", multiple=True, metavar="NAME=VALUE", help="Your own words about it.")
def create(name: str, file: Path | None, metadata: tuple[str, ...]) -> None:
    """
    Keep a new secret, and print what stands for it in --header.

    Its value is asked for, or read from standard input or a file; one line end at its end is not part of it.
    """
    told = options.pairs(metadata, "--metadata")
    made = Secret.create(name, _read(file), metadata=told)
    click.echo(Secret.fill(made.name))


@secret.command()
@click.argument("reference", metavar="NAME|ID")
@_value
def update(reference: str, file: Path | None) -> None:
    """Give a secret another value; the old one is gone."""
    Secret.update(reference, _read(file))


@secret.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """List secrets by name; their values are not shown."""
    found = Secret.list()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            one.name,
            one.id,
            one.version,
            output.moment(one.updated_at),
            " ".join(f"{key}={value}" for key, value in one.metadata.items()),
        )
        for one in found
    ]
    output.show_table(("NAME", "ID", "VERSION", "CHANGED", "METADATA"), rows)


@secret.command()
@click.argument("reference", metavar="NAME|ID")
def delete(reference: str) -> None:
    """Delete a secret; requests whose rule names it are refused from then on."""
    Secret.delete(reference)


def _read(file: Path | None) -> str:
    """
    Get a value: from a file, from whoever sits at the terminal, or from standard input.

    Raises:
        click.UsageError: it is no text, or far too long. The value itself is not repeated.
    """
    if file is None and sys.stdin.isatty():
        asked: str = click.prompt("Value", hide_input=True, err=True)
        return asked
    if file is None or str(file) == "-":
        data = sys.stdin.buffer.read(_MOST_BYTES + 1)
    else:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise click.UsageError("the value is far too long for a secret")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        # Without its cause, which holds the value.
        raise click.UsageError("the value is not text in UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
