"""
What a runtime starts and reports: the machine below a sandbox.

Nothing here names a technology.
"""

from dataclasses import dataclass

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import SandboxId, TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.sandbox import EndReason
from atoll.server.domain.volume import VolumeMount


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """What to start."""

    sandbox_id: SandboxId
    template_id: TemplateId
    hostname: str
    limits: Limits
    egress: EgressPolicy
    volumes: tuple[VolumeMount, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """
    What runs.

    Attributes:
        sandbox_id: whose it is.
        address: its IPv4 address, reachable from this host only.
    """

    sandbox_id: SandboxId
    address: str


@dataclass(frozen=True, kw_only=True)
class MachineEnded:
    """A machine ended without being asked. Its remains wait for ``destroy``."""

    sandbox_id: SandboxId
    reason: EndReason
    detail: str


@dataclass(frozen=True, kw_only=True)
class ProcessKilledForMemory:
    """A process inside was killed, because the machine used more memory than promised."""

    sandbox_id: SandboxId
    pid: int
    command: str
    resident_bytes: int


@dataclass(frozen=True, kw_only=True)
class EventsLost:
    """So many events could not be told, of whichever machines; ``Runtime.observe`` shows what is."""

    number: int


MachineEvent = MachineEnded | ProcessKilledForMemory | EventsLost


@dataclass(frozen=True, kw_only=True)
class Observation:
    """
    All machines of a host at one moment.

    Attributes:
        machines: those that run.
        ended: those that ended without being asked, and were not destroyed since; told as events or not.
    """

    machines: tuple[Machine, ...]
    ended: tuple[MachineEnded, ...]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """
    What a machine uses now, read from the host, without waking the guest.

    Attributes:
        cpu_seconds: since its start.
        memory_bytes: resident, without page cache.
        cache_bytes: page cache, which the host takes back when it needs it.
        disk_bytes: written over the template, as far as it takes room on the host.
    """

    cpu_seconds: float
    memory_bytes: int
    cache_bytes: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class GuestConfiguration:
    """
    Everything a guest is told after its start: one message for start, claim and fork.

    Mirrors ``atoll.guest.v1.Configuration`` in proto/.

    Attributes:
        claimed: the machine was told who it is since it was restored, so nothing in it has a twin any more.
    """

    generation: int
    sandbox_id: SandboxId
    template_id: TemplateId
    team_id: str
    hostname: str
    machine_id: str
    env: tuple[tuple[str, str], ...]
    access_token: str
    default_user: str
    default_workdir: str
    processes: int
    memory_bytes: int
    address: str
    dns_servers: tuple[str, ...]
    volumes: tuple[VolumeMount, ...] = ()
    claimed: bool = False


@dataclass(frozen=True, kw_only=True)
class KilledProcess:
    """A process that a guest killed to get memory back."""

    pid: int
    command: str
    resident_bytes: int
