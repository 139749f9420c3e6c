"""``atoll ls`` and ``atoll cp``: files of sandboxes. What they share with volumes is here, too."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from atoll import FileInfo, FileStream, FileType, Sandbox
from atoll.cli import copying, options, output

# Arguments of one chmod: far below what exec takes.
_CHMOD_BATCH = 200


@dataclass(frozen=True)
class Place:
    """A path in a sandbox or a volume: SANDBOX:PATH."""

    owner: str
    path: str


def parse_place(word: str) -> Place | None:
    """
    Read SANDBOX:PATH or VOLUME:PATH.

    None for a path of this machine: one without a colon, or with / or . before it.
    """
    head, colon, path = word.partition(":")
    if not colon or not head or "/" in head or "." in head:
        return None
    return Place(head, path or ".")


@click.command()
@click.argument("place", metavar="SANDBOX[:PATH]")
@click.option("--long", "-l", is_flag=True, help="Show sizes, owners and times.")
@options.as_json
def ls(place: str, long: bool, as_json: bool) -> None:
    """List a directory of a sandbox; without PATH, its user's home."""
    found = parse_place(place) or Place(place, ".")
    with closing(Sandbox.get(found.owner)) as sandbox:
        show(SandboxTree(sandbox, None), found.path, long=long, as_json=as_json)


def show(tree: copying.Tree, path: str, *, long: bool, as_json: bool) -> None:
    """Print a directory, or what is at a path that is none."""
    entry = tree.stat(path)
    entries = list(tree.list(path)) if entry.type is FileType.DIRECTORY else [entry]
    entries.sort(key=lambda one: one.name)
    if as_json:
        output.show_json(entries)
    elif long:
        for one in entries:
            click.echo(_long(one))
    else:
        for one in entries:
            click.echo(output.safe(one.name) + ("/" if one.type is FileType.DIRECTORY else ""))


def _long(one: FileInfo) -> str:
    arrow = f" -> {output.safe(one.symlink_target)}" if one.symlink_target else ""
    owner = output.safe(f"{one.owner}:{one.group}")
    return (
        f"{output.safe(one.permissions):11} {owner:14} {one.size:>12} {output.moment(one.modified_at)} "
        f"{output.safe(one.name)}{arrow}"
    )


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION")
@click.option("--user", "-u", help="On whose behalf in the sandbox; default: the template's user.")
def cp(source: str, destination: str, user: str | None) -> None:
    """
    Copy a file or a directory into a sandbox, or out of it.

    One of SOURCE and DESTINATION is SANDBOX:PATH. A directory is copied with all that is in it; a destination
    that is a directory gets the source inside. Links in directories are neither followed nor copied.
    """
    if "-" in (source, destination):
        raise click.UsageError(
            "- is no file (./- is); `atoll sandbox exec ID -- cat PATH` prints one, `tee PATH` takes one"
        )
    place = the_place(source, destination, "SANDBOX:PATH")
    with closing(Sandbox.get(place.owner)) as sandbox:
        copy(SandboxTree(sandbox, user), source, destination)


def the_place(source: str, destination: str, form: str) -> Place:
    """
    Find which of two words is not of this machine.

    Raises:
        click.UsageError: both are, or none.
    """
    here, there = parse_place(source), parse_place(destination)
    place = there or here
    if place is None or (here is not None and there is not None):
        raise click.UsageError(f"one of SOURCE and DESTINATION must be {form}")
    return place


def copy(tree: copying.Tree, source: str, destination: str) -> None:
    """Copy into a tree or out of it, and say how much."""
    here, there = parse_place(source), parse_place(destination)
    with output.steps() as show_step:
        if there is not None:
            copied = copying.Upload(tree, show_step).copy(Path(source), there.path)
        else:
            assert here is not None
            copied = copying.Download(tree, show_step).copy(here.path, Path(destination))
    output.note(f"{copied} {'file' if copied == 1 else 'files'} copied")


class SandboxTree(copying.Tree):
    """Files of a sandbox, on somebody's behalf."""

    def __init__(self, sandbox: Sandbox, user: str | None) -> None:
        self._files = sandbox.files
        self._commands = sandbox.commands
        self._user = user

    def stat(self, path: str) -> FileInfo:
        """Describe what is at a path."""
        return self._files.stat(path, user=self._user)

    def list(self, path: str) -> Sequence[FileInfo]:
        """List a directory."""
        return self._files.list(path, user=self._user)

    def make_dir(self, path: str) -> None:
        """Make a directory, if it is not there."""
        self._files.make_dir(path, user=self._user)

    def read(self, path: str) -> FileStream:
        """Open a file."""
        return self._files.read(path, format="stream", user=self._user)

    def write(self, path: str, file: Path, *, program: bool) -> str:
        """Write a file of this machine; what is a program is made one at the end."""
        return self._files.write(path, file, user=self._user).path

    def finish(self, programs: Sequence[str]) -> None:
        """Make programs, many in one command."""
        for start in range(0, len(programs), _CHMOD_BATCH):
            batch = programs[start : start + _CHMOD_BATCH]
            self._commands.run(["chmod", "+x", "--", *batch], user=self._user, check=True)
