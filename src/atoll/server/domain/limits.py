"""What a sandbox may use."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    The size of a sandbox.

    Attributes:
        cpus: processor time, in cores.
        memory_bytes: what the guest sees as its memory, and may use.
        processes: processes and threads inside.
        disk_bytes: what may be written over the template.
    """

    cpus: float
    memory_bytes: int
    processes: int
    disk_bytes: int
