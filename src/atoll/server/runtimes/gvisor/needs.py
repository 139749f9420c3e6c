"""
What the machines and checkpoints of a home need, all of them at one moment.

They change while they are looked at: a pause makes a checkpoint of a machine, a resume a machine of a
checkpoint, and what is linked outlives its origin. So the names of both are read until two readings are the
same: then all of that was there at once. Each must still be there when it is looked into, else all begins
anew. Whatever comes later needs what one of those needed, or today's.

Everything here blocks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import AtollError, NotFoundError
from atoll.server.runtimes import images
from atoll.server.runtimes.gvisor.places import Places
from atoll.server.runtimes.gvisor.record import Record, directories

# A look takes milliseconds, and 50 for some hundred sandboxes; in between most things have come to rest.
_LOOKS, _AGAIN_S = 10, 0.02


class _ChangedError(Exception):
    """Not all of it was there at one moment."""


@dataclass(kw_only=True)
class Needs:
    """
    What is needed.

    Attributes:
        guestds: copies of guestd, by content.
        versions: of runsc.
        programs: paths of runsc.
        templates: that something lies over.
        problems: what could not be read. Where there are any, more may be needed than is named here.
    """

    guestds: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    programs: set[Path] = field(default_factory=set)
    templates: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def needs(places: Places, checkpoints: Path) -> Needs:
    """Say what is needed by the machines of a home and the checkpoints in a directory."""

    def give_up(state: RetryCallState) -> Needs:
        error = state.outcome.exception() if state.outcome is not None else None
        return Needs(problems=[str(error)])

    looks = Retrying(
        retry=retry_if_exception_type(_ChangedError),
        stop=stop_after_attempt(_LOOKS),
        wait=wait_fixed(_AGAIN_S),
        retry_error_callback=give_up,
    )
    return looks(_look, places, checkpoints)


def _look(places: Places, checkpoints: Path) -> Needs:
    found = Needs()
    machines, written = names = _names(places, checkpoints)
    if _names(places, checkpoints) != names:
        raise _ChangedError(f"{places.sandboxes} and {checkpoints} change too quickly")
    _add_machines(found, machines)
    _add_checkpoints(found, written)
    # What was written down of a machine whose place another one of the same sandbox had taken by then.
    _add_checkpoints(found, _names(places, checkpoints)[1] - written)
    return found


def _names(places: Places, checkpoints: Path) -> tuple[frozenset[Path], frozenset[Path]]:
    machines = frozenset(directories(places.sandboxes))
    there = checkpoints.iterdir() if checkpoints.exists() else ()
    return machines, frozenset(path for path in there if not path.name.startswith("."))


def _add_machines(found: Needs, paths: Iterable[Path]) -> None:
    for path in paths:
        record = Record.read(path)
        if record is None:
            # It begins or goes right now, or is damaged.
            raise _ChangedError(f"{path} does not say what it needs")
        found.guestds.add(record.guestd)
        found.versions.add(record.runsc_version)
        found.programs.add(Path(record.runsc))
        found.templates.add(record.template_id)


def _add_checkpoints(found: Needs, paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            checkpoint = images.read_manifest(path)
        except NotFoundError as error:
            if not path.exists():
                raise _ChangedError(f"{path} went while it was looked at") from error
            # No checkpoint: without a manifest nothing can be restored.
            continue
        except AtollError as error:
            found.problems.append(f"{error}: {error.details}")
            continue
        if checkpoint.kind is CheckpointKind.MEMORY:
            found.guestds.add(checkpoint.guestd)
            found.versions.add(checkpoint.runtime_version)
        found.templates.add(checkpoint.template_id)
