"""
Copies files and directories into a sandbox or a volume, and out of them.

Names that come from there are a stranger's: none may lead out of the directory that the user named.
"""

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from atoll import FileInfo, FileStream, FileType, InvalidArgumentError, NotFoundError
from atoll.cli import output

# Directories in directories that a stranger may have us make: more than people do, less than harms.
_MOST_DEPTH = 100


class Tree(Protocol):
    """Files that are elsewhere. Errors are the SDK's."""

    def stat(self, path: str) -> FileInfo:
        """Describe what is at a path."""
        ...

    def list(self, path: str) -> Sequence[FileInfo]:
        """List a directory."""
        ...

    def make_dir(self, path: str) -> None:
        """Make a directory, if it is not there."""
        ...

    def read(self, path: str) -> FileStream:
        """Open a file."""
        ...

    def write(self, path: str, file: Path, *, program: bool) -> str:
        """Write a file of this machine, and return where it is."""
        ...

    def finish(self, programs: Sequence[str]) -> None:
        """Make programs of those that were written as such and are not yet."""
        ...


class Upload:
    """Copies from here into a tree."""

    def __init__(self, tree: Tree, show: output.Steps) -> None:
        self._tree = tree
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
        self._tree.make_dir(target)
        return self._copy_files(list(self._walk(source, target)))

    def _is_directory(self, path: str) -> bool:
        try:
            return self._tree.stat(path).type is FileType.DIRECTORY
        except NotFoundError:
            return False

    def _walk(self, source: Path, target: str) -> Iterator[tuple[Path, str]]:
        for path in sorted(source.iterdir()):
            inside = f"{target}/{path.name}"
            if path.is_symlink():
                output.note(f"not copied, a link: {output.safe(path)}")
            elif path.is_dir():
                self._tree.make_dir(inside)
                yield from self._walk(path, inside)
            elif path.is_file():
                yield path, inside

    def _copy_files(self, pairs: list[tuple[Path, str]]) -> int:
        programs = []
        for number, (path, target) in enumerate(pairs):
            self._show(f"{path}", number / len(pairs))
            program = bool(path.stat().st_mode & stat.S_IXUSR)
            written = self._tree.write(target, path, program=program)
            if program:
                programs.append(written)
        self._tree.finish(programs)
        return len(pairs)


class Download:
    """Copies from a tree to here."""

    def __init__(self, tree: Tree, show: output.Steps) -> None:
        self._tree = tree
        self._show = show

    def copy(self, source: str, destination: Path) -> int:
        """Copy a file or a directory; return how many files."""
        entry = self._tree.stat(source)
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
        for entry in self._tree.list(source):
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
        beside = target.with_name(f".{target.name}.part")
        try:
            with (
                self._tree.read(entry.path) as stream,
                beside.open("xb") as file,
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
    Check a name that a stranger gave.

    Raises:
        InvalidArgumentError: it would lead elsewhere.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidArgumentError(f"A file there is called {name[:64]!r}: nothing more is copied.")
    return name
