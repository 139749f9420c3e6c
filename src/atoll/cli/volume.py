"""``atoll volume``: files that outlive sandboxes."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from atoll import FileInfo, FileStream, Volume
from atoll.cli import copying, files, options, output

_PROGRAM_MODE = 0o755


@click.group()
def volume() -> None:
    """Work with volumes, which `--volume NAME:PATH` of `run` and `sandbox create` has sandboxes see."""


@volume.command()
@click.argument("name")
@options.as_json
def create(name: str, as_json: bool) -> None:
    """Create an empty volume and print its id."""
    with closing(Volume.create(name)) as made:
        if as_json:
            output.show_json(made.info)
        else:
            click.echo(made.id)


@volume.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """List volumes, oldest first."""
    found = Volume.list()
    if as_json:
        output.show_json(found)
        return
    rows = [(one.name, one.id, output.size(one.size_bytes), output.moment(one.created_at)) for one in found]
    output.show_table(("NAME", "ID", "AT MOST", "CREATED"), rows)


@volume.command()
@click.argument("reference", metavar="NAME|ID")
@options.as_json
def info(reference: str, as_json: bool) -> None:
    """Show what is known of a volume."""
    with closing(Volume.get(reference)) as found:
        told = found.info
    if as_json:
        output.show_json(told)
        return
    for name, value in (
        ("name", told.name),
        ("id", told.id),
        ("at most", output.size(told.size_bytes)),
        ("created", output.moment(told.created_at)),
    ):
        click.echo(f"{name:10} {output.safe(value)}")


@volume.command()
@click.argument("reference", metavar="NAME|ID")
def delete(reference: str) -> None:
    """Delete a volume with all that is in it; one that a sandbox has stays."""
    Volume.delete(reference)


@volume.command()
@click.argument("place", metavar="VOLUME[:PATH]")
@click.option("--long", "-l", is_flag=True, help="Show sizes, owners and times.")
@options.as_json
def ls(place: str, long: bool, as_json: bool) -> None:
    """List a directory of a volume; without PATH, its root."""
    found = files.parse_place(place) or files.Place(place, "/")
    with closing(Volume.get(found.owner)) as named:
        files.show(VolumeTree(named), found.path, long=long, as_json=as_json)


@volume.command()
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION")
def cp(source: str, destination: str) -> None:
    """
    Copy a file or a directory into a volume, or out of it.

    One of SOURCE and DESTINATION is VOLUME:PATH. A directory is copied with all that is in it; a destination
    that is a directory gets the source inside. Links in directories are neither followed nor copied.
    """
    if "-" in (source, destination):
        raise click.UsageError("- is no file (./- is)")
    place = files.the_place(source, destination, "VOLUME:PATH")
    with closing(Volume.get(place.owner)) as named:
        files.copy(VolumeTree(named), source, destination)


@volume.command()
@click.argument("place", metavar="VOLUME:PATH")
def rm(place: str) -> None:
    """Remove a file of a volume, or a directory with all that is in it."""
    found = files.parse_place(place)
    if found is None or found.path == ".":
        raise click.UsageError("give VOLUME:PATH; `atoll volume delete` deletes a volume")
    with closing(Volume.get(found.owner)) as named:
        named.files.stat(found.path)
        named.files.remove(found.path)


@volume.command()
@click.argument("place", metavar="VOLUME:PATH")
@click.argument("mode", metavar="MODE")
def chmod(place: str, mode: str) -> None:
    """Change the permission bits of a file or a directory in a volume; MODE is octal, 0640 say."""
    try:
        bits = int(mode, 8)
    except ValueError:
        raise click.BadParameter(f"{mode!r} is no octal number", param_hint="MODE") from None
    found = _entry(place)
    with closing(Volume.get(found.owner)) as named:
        named.files.change(found.path, mode=bits)


@volume.command()
@click.argument("place", metavar="VOLUME:PATH")
@click.argument("owner", metavar="UID[:GID]")
def chown(place: str, owner: str) -> None:
    """Change the owner of a file, a directory or a link in a volume; names of users are a sandbox's own."""
    numbers = owner.split(":")
    if len(numbers) > 2 or not all(one.isascii() and one.isdecimal() for one in numbers):
        raise click.BadParameter(f"{owner!r} is not UID or UID:GID", param_hint="UID[:GID]")
    uid, gid = int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else None
    found = _entry(place)
    with closing(Volume.get(found.owner)) as named:
        named.files.change(found.path, uid=uid, gid=gid)


def _entry(place: str) -> files.Place:
    found = files.parse_place(place)
    if found is None:
        raise click.UsageError("give VOLUME:PATH")
    return found


class VolumeTree(copying.Tree):
    """Files of a volume."""

    def __init__(self, of: Volume) -> None:
        self._files = of.files
        self._name = of.name

    def stat(self, path: str) -> FileInfo:
        """Describe what is at a path; a link is not followed. The root is called as the volume is."""
        found = self._files.stat(path)
        return replace(found, name=self._name) if found.path == "/" else found

    def list(self, path: str) -> Sequence[FileInfo]:
        """List a directory."""
        return self._files.list(path)

    def make_dir(self, path: str) -> None:
        """Make a directory, if it is not there."""
        self._files.make_dir(path)

    def read(self, path: str) -> FileStream:
        """Open a file."""
        return self._files.read(path, format="stream")

    def write(self, path: str, file: Path, *, program: bool) -> str:
        """Write a file of this machine."""
        return self._files.write(path, file, mode=_PROGRAM_MODE if program else None).path

    def finish(self, programs: Sequence[str]) -> None:
        """Nothing is left to do: they were written as programs."""
