"""What takes room on the disk, and what of it nobody needs any more."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from atoll.server.domain.ids import TemplateId


class Kind(StrEnum):
    """What can be left over."""

    # A checkpoint that no row names.
    CHECKPOINT = "checkpoint"
    # What somebody who was killed had begun: a checkpoint, an unpacked file, a template, a runsc.
    HALF = "half-written"
    # Runs of pages that no checkpoint names.
    RUNS = "runs"
    # A copy of guestd that neither sandboxes nor checkpoints need.
    GUESTD = "guestd"
    # A runsc that neither sandboxes nor checkpoints need.
    RUNSC = "runsc"
    # A build of a template that is not the newest, and that nobody needs.
    TEMPLATE = "template"


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """
    Something that nobody needs.

    Attributes:
        kind: what it is.
        name: its own; of runs, how many they are.
        size_bytes: what it takes on the disk, or in the bucket.
    """

    kind: Kind
    name: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Collected:
    """
    What a collection found.

    Attributes:
        leftovers: what was removed, or would be.
        problems: what could not be looked at or removed, in words.
    """

    leftovers: Sequence[Leftover] = ()
    problems: Sequence[str] = ()

    @property
    def size_bytes(self) -> int:
        """What all leftovers take."""
        return sum(one.size_bytes for one in self.leftovers)

    def __add__(self, other: "Collected") -> "Collected":
        return Collected(
            leftovers=(*self.leftovers, *other.leftovers), problems=(*self.problems, *other.problems)
        )


@dataclass(frozen=True, kw_only=True)
class Needed:
    """
    What rows name.

    Attributes:
        checkpoints: of paused sandboxes and of snapshots, those being written too.
        templates: of sandboxes that are not ended, and of snapshots.
    """

    checkpoints: frozenset[str] = field(default_factory=frozenset)
    templates: frozenset[TemplateId] = field(default_factory=frozenset)
