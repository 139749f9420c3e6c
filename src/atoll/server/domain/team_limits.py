"""What one team may use, where that differs from what the server allows everybody."""

from dataclasses import dataclass

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.limits import Limits

_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class TeamLimits:
    """
    Limits of a team's own; None: as the server has it for everybody.

    Attributes:
        max_sandboxes: its sandboxes that are neither paused nor ended; 0: it starts none.
        max_cpus: cores of one of its sandboxes.
        max_memory_bytes: memory of one of its sandboxes.
        requests_per_second: calls of the API with all of its keys together, on average over the server's
            window of time. Without it each key is counted alone.
    """

    max_sandboxes: int | None = None
    max_cpus: float | None = None
    max_memory_bytes: int | None = None
    requests_per_second: int | None = None


def check_size(size: Limits, limits: TeamLimits) -> None:
    """
    Check that a sandbox of this size may be a team's.

    Raises:
        InvalidArgumentError: it is larger than the team's may be.
    """
    if limits.max_cpus is not None and size.cpus > limits.max_cpus:
        raise InvalidArgumentError(
            f"A sandbox of this team has at most {limits.max_cpus:g} CPUs, not {size.cpus:g}"
        )
    if limits.max_memory_bytes is not None and size.memory_bytes > limits.max_memory_bytes:
        most, wanted = limits.max_memory_bytes / _MIB, size.memory_bytes / _MIB
        raise InvalidArgumentError(
            f"A sandbox of this team has at most {most:g} MiB of memory, not {wanted:g} MiB"
        )
