"""A shelf of the pool: machines of one kind that wait, and what is known of the kind."""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine
from atoll.server.domain.pool import Demand, PoolKey
from atoll.server.domain.template import Template


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """
    A machine that waits.

    Attributes:
        machine: what was restored.
        key: what it is good for.
        generation: what it was told last.
        since: when it began to wait.
    """

    machine: Machine
    key: PoolKey
    generation: int
    since: datetime

    @property
    def sandbox_id(self) -> SandboxId:
        """Of the sandbox that it becomes."""
        return self.machine.sandbox_id


@dataclass(kw_only=True)
class Shelf:
    """
    The machines of one kind, and who asked for them.

    Attributes:
        template: what they were restored from.
        key: their kind.
        demand: what was asked for.
        waiting: those that wait; the first is handed out next.
        making: how many are being made.
        hits: creates that found one.
        misses: creates that found none.
        machine_bytes: what one takes of the host's memory, as far as that is known.
        problem: why none could be made; None: nothing is wrong.
        again_at: until then none is made; None: none was refused.
    """

    template: Template
    key: PoolKey
    demand: Demand
    waiting: deque[Waiting] = field(default_factory=deque)
    making: int = 0
    hits: int = 0
    misses: int = 0
    machine_bytes: int
    problem: str | None = None
    again_at: datetime | None = None
