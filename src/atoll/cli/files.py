"""
``atoll ls`` and ``atoll cp``: files of sandboxes.

Names that come from a sandbox are a stranger's: none may lead out of the directory that the user named.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from atoll import FileInfo, FileType, InvalidArgumentError, NotFoundError, Sandbox
from atoll.cli import options, output

# Arguments of one chmod: far below what exec takes.
_CHMOD_BATCH = 200
# Directories in directories that a sandbox may have us make: more than people do, less than harms.
_MOST_DEPTH = 100


@dataclass(frozen=True)
class Place:
    """A path in a sandbox: SANDBOX:PATH."""

    sandbox_id: str
    path: str


def parse_place(word: str) -> Place | None:
    """Read SANDBOX:PATH; None for a path of this machine: one without a colon, or with / or . before it."""
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
    with closing(Sandbox.get(found.sandbox_id)) as sandbox:
        entry = sandbox.files.stat(found.path)
        entries = sandbox.files.list(found.path) if entry.type is FileType.DIRECTORY else [entry]
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
    here, there = parse_place(source), parse_place(destination)
    if (here is None) == (there is None):
        raise click.UsageError("one of SOURCE and DESTINATION must be SANDBOX:PATH")
    place = there or here
    assert place is not None
    with closing(Sandbox.get(place.sandbox_id)) as sandbox, output.steps() as show:
        if there is not None:
            copied = Upload(sandbox, user, show).copy(Path(source), there.path)
        else:
            copied = Download(sandbox, user, show).copy(place.path, Path(destination))
    output.note(f"{copied} {'file' if copied == 1 else 'files'} copied")


class Upload:
    """Copies from here into a sandbox."""

    def __init__(self, sandbox: Sandbox, user: str | None, show: output.Steps) -> None:
        self._files = sandbox.files
        self._commands = sandbox.commands
        self._user = user
        self._show = show

    def copy(self, source: Path, destination: str) -> int:
        """Copy a file or a directory; return how many files."""
        if not source.exists():
            raise NotFoundError(f"There is no {source} here.")
        target = destination
        if destination.endswith("/") or self._is_directory(destination):
            target = f"{destination.rstrip('/')}/{source.resolve().name}"
        if not source.is_dir():
            return self._copy_files([(source, target)])
        self._files.make_dir(target, user=self._user)
        return self._copy_files(list(self._walk(source, target)))

    def _is_directory(self, path: str) -> bool:
        try:
            return self._files.stat(path, user=self._user).type is FileType.DIRECTORY
        except NotFoundError:
            return False

    def _walk(self, source: Path, target: str) -> Iterator[tuple[Path, str]]:
        for path in sorted(source.iterdir()):
            inside = f"{target}/{path.name}"
            if path.is_symlink():
                output.note(f"not copied, a link: {output.safe(path)}")
            elif path.is_dir():
                self._files.make_dir(inside, user=self._user)
                yield from self._walk(path, inside)
            elif path.is_file():
                yield path, inside

    def _copy_files(self, pairs: list[tuple[Path, str]]) -> int:
        programs = []
        for number, (path, target) in enumerate(pairs):
            self._show(f"{path}", number / len(pairs))
            written = self._files.write(target, path, user=self._user)
            if path.stat().st_mode & stat.S_IXUSR:
                programs.append(written.path)
        for start in range(0, len(programs), _CHMOD_BATCH):
            batch = programs[start : start + _CHMOD_BATCH]
            self._commands.run(["chmod", "+x", "--", *batch], user=self._user, check=True)
        return len(pairs)


class Download:
    """Copies from a sandbox to here."""

    def __init__(self, sandbox: Sandbox, user: str | None, show: output.Steps) -> None:
        self._files = sandbox.files
        self._user = user
        self._show = show

    def copy(self, source: str, destination: Path) -> int:
        """Copy a file or a directory; return how many files."""
        entry = self._files.stat(source, user=self._user)
        target = destination / safe_name(entry.name) if destination.is_dir() else destination
        if entry.type is FileType.DIRECTORY:
            return self._copy_directory(entry.path, target, 1)
        self._copy_file(entry, target)
        return 1

    def _copy_directory(self, source: str, target: Path, depth: int) -> int:
        if depth > _MOST_DEPTH:
            raise InvalidArgumentError(
                f"{source[:200]} is deeper than {_MOST_DEPTH} directories: nothing more is copied."
            )
        if target.is_symlink():
            raise InvalidArgumentError(f"{target} is a link; a directory is not copied through it.")
        target.mkdir(exist_ok=True)
        copied = 0
        for entry in self._files.list(source, user=self._user):
            inside = target / safe_name(entry.name)
            path = f"{source.rstrip('/')}/{entry.name}"
            if entry.symlink_target is not None:
                output.note(f"not copied, a link: {output.safe(path)}")
            elif entry.type is FileType.DIRECTORY:
                copied += self._copy_directory(path, inside, depth + 1)
            elif entry.type is FileType.FILE:
                self._copy_file(entry, inside)
                copied += 1
        return copied

    def _copy_file(self, entry: FileInfo, target: Path) -> None:
        """Copy beside, then rename: no half file is left, and no link of ours is followed."""
        self._show(entry.path, None)
        # A name that nobody has: what is removed below is ours.
        fd, name = tempfile.mkstemp(prefix=".atoll-", dir=target.parent)
        beside = Path(name)
        try:
            with (
                os.fdopen(fd, "wb") as file,
                self._files.read(entry.path, format="stream", user=self._user) as stream,
            ):
                for piece in stream:
                    file.write(piece)
            # Never setuid here, whatever it is there.
            beside.chmod((entry.mode & 0o777) | stat.S_IRUSR | stat.S_IWUSR)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """
    Check a name that a sandbox gave.

    Raises:
        InvalidArgumentError: it would lead elsewhere.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidArgumentError(
            f"The sandbox says that a file is called {name[:64]!r}: nothing more is copied."
        )
    return name
