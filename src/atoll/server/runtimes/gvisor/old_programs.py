"""
Finds copies of guestd and versions of runsc that neither a sandbox nor a checkpoint needs.

A sandbox needs what it was started with for as long as it runs, a checkpoint of memory what wrote it, one of
files nothing: today's programs boot it. Where
that cannot be read of a single one, all stay.
"""

import fcntl
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.domain.storage import Collected, Kind, Leftover
from atoll.server.host.storage import size_on_disk
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.collector import Collector, Read
from atoll.server.runtimes.gvisor.needs import needs
from atoll.server.runtimes.gvisor.places import Places
from atoll.server.runtimes.gvisor.programs import Programs

_GOING = ".removing-"


class OldPrograms(Collector):
    """Those of one home."""

    def __init__(self, *, places: Places, programs: Programs, checkpoints: Path, shared: bool) -> None:
        """
        Args:
            places: of this home.
            programs: knows the versions of runsc.
            checkpoints: of this home.
            shared: other homes use the same directory of runsc, so none of its versions goes.
        """
        self._places = places
        self._programs = programs
        self._checkpoints = checkpoints
        self._shared = shared

    @override
    async def collect(self, needed: Read, *, dry: bool) -> Collected:
        runscs = {} if self._shared else await self._programs.installed()
        used = await finish_in_thread(needs, self._places, self._checkpoints)
        if used.problems:
            return Collected(problems=tuple(f"programs: {one}" for one in used.problems))
        today = await finish_in_thread(self._programs.guestds.today)
        copies = [
            path
            for path in await finish_in_thread(self._programs.guestds.copies)
            if path.name not in used.guestds | {today}
        ]
        old = [
            path.parent
            for version, path in runscs.items()
            if version not in used.versions and path not in used.programs | {self._places.runsc}
        ]
        halves = [] if self._shared else await finish_in_thread(_halves, self._places.runscs)
        return await finish_in_thread(_remove, {Kind.GUESTD: copies, Kind.RUNSC: old, Kind.HALF: halves}, dry)


def templates_in_use(places: Places, checkpoints: Path) -> frozenset[str]:
    """
    Name the templates that machines and checkpoints lie over.

    Raises:
        FailedPreconditionError: one of them does not say.
    """
    used = needs(places, checkpoints)
    if used.problems:
        raise FailedPreconditionError("; ".join(used.problems))
    return frozenset(used.templates)


def _halves(directory: Path | None) -> list[Path]:
    """List what was left by who installed or removed one, unless somebody installs one now."""
    if directory is None or not directory.exists():
        return []
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return [*directory.glob(".installing-*"), *directory.glob(f"{_GOING}*")]
    except BlockingIOError:
        return []
    finally:
        os.close(fd)


def _remove(found: Mapping[Kind, Sequence[Path]], dry: bool) -> Collected:
    leftovers, problems = [], list[str]()
    for kind, paths in found.items():
        for path in paths:
            leftovers.append(Leftover(kind=kind, name=path.name, size_bytes=size_on_disk(path)))
            if dry:
                continue
            try:
                if kind is Kind.GUESTD:
                    path.unlink(missing_ok=True)
                elif kind is Kind.RUNSC:
                    # First the name: a half-removed one is never taken for a runsc.
                    shutil.rmtree(path.rename(path.with_name(f"{_GOING}{path.name}")))
                else:
                    shutil.rmtree(path)
            except OSError as error:
                problems.append(f"{path}: {error}")
    return Collected(leftovers=tuple(leftovers), problems=tuple(problems))
