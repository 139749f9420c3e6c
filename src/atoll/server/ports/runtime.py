"""
The port to an isolation technology: gVisor now, microVMs later, a fake for tests.

tests/contract/test_runtime.py holds every runtime to what is written here.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine, MachineEvent, MachineSpec, Observation, Usage


class Runtime(Protocol):
    """
    Starts, ends and watches machines on this host.

    A runtime keeps what it needs to find its machines again on disk and in the kernel,
    named by sandbox id: a new process with the same home sees all that an old one left.
    Calls for different sandboxes may run at once; for one sandbox the caller takes turns.
    """

    @property
    def name(self) -> str:
        """What rows and users call it: "gvisor"."""
        ...

    async def open(self) -> Sequence[Machine]:
        """
        Get ready, and return the machines that run from before.

        They are watched again from here on.
        What an interrupted start or destroy left is listed by ``remains``.
        """
        ...

    async def close(self) -> None:
        """Stop watching. Machines run on."""
        ...

    async def start(self, spec: MachineSpec) -> Machine:
        """
        Start a machine; return when its guestd listens, not yet configured.

        A failed or cancelled start leaves remains that ``destroy`` removes; it never cleans by itself.

        Raises:
            NotFoundError: the template is not built here.
            ResourceExhaustedError: the host has no room (disk, slots, memory).
            UnavailableError: it did not come up; details say what the host saw.
            DeadlineExceededError: a step took longer than its limit.
        """
        ...

    async def set_egress(self, sandbox_id: SandboxId, egress: EgressPolicy) -> None:
        """
        Have a machine reach what this policy says, and nothing else, from the return on; the same again is
        cheap. Connections that it does not allow any more end.

        Raises:
            NotFoundError: no such machine.
            UnavailableError: the host refused; calling again may help.
        """
        ...

    async def destroy(self, sandbox_id: SandboxId) -> None:
        """
        End a machine at once and remove all that belongs to it.

        Processes, namespaces, cgroups, mounts, firewall entries and files are gone on return.
        A no-op for what is not there, however often it is called, and also for half a start.
        A hung machine is killed without being asked.

        Raises:
            UnavailableError: something would not go; calling again may help.
        """
        ...

    async def remains(self) -> Sequence[SandboxId]:
        """List every sandbox of which anything is on this host: running, ended, half-made."""
        ...

    def events(self) -> AsyncIterator[MachineEvent]:
        """
        Tell what happens to machines by itself, as it happens.

        One reader at a time. A machine that ends by ``destroy`` is not reported.
        Events that nobody reads are kept up to a bound; beyond it they are lost, and ``EventsLost`` is the
        next event.
        """
        ...

    async def observe(self) -> Observation:
        """Look at all machines of which this object knows, for a reader who lost events."""
        ...

    async def usage(self, sandbox_id: SandboxId) -> Usage:
        """
        Read what a machine uses.

        Raises:
            NotFoundError: no such machine.
        """
        ...

    async def usages(self) -> Mapping[SandboxId, Usage]:
        """Read what every machine uses, keeping nobody waiting; those that end meanwhile miss."""
        ...
