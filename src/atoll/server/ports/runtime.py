"""
The port to an isolation technology: gVisor now, microVMs later, a fake for tests.

tests/contract/test_runtime.py holds every runtime to what is written here.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine, MachineEvent, MachineSpec, Observation, Usage
from atoll.server.domain.volume import VolumeMount


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

    async def release(self) -> str:
        """
        Name the programs of machines that boot now, in letters and digits: another name after an
        update.

        Raises:
            UnavailableError: that cannot be found out.
        """
        ...

    async def open(self) -> Sequence[Machine]:
        """
        Get ready, and return the machines that run from before.

        They are watched again from here on.
        What an interrupted start or destroy left is listed by ``remains``; what is left of a machine that
        ended, all but its slot, is removed behind this.
        """
        ...

    async def close(self) -> None:
        """Stop watching, once what ``checkpoint`` removes behind its return is gone. Machines run on."""
        ...

    async def start(self, spec: MachineSpec) -> Machine:
        """
        Start a machine; return when its guestd listens, not yet configured.

        A failed or cancelled start leaves remains that ``destroy`` removes; it never cleans by itself.

        Raises:
            NotFoundError: the template is not built here.
            ResourceExhaustedError: the host has no room (disk, memory), or no slot (``ADDRESSES_USED_UP``).
            UnavailableError: it did not come up; details say what the host saw.
            DeadlineExceededError: a step took longer than its limit.
        """
        ...

    async def checkpoint(
        self, sandbox_id: SandboxId, into: Path, *, kind: CheckpointKind, leave_running: bool
    ) -> Checkpoint:
        """
        Write a machine down in a directory.

        On return all of it is on the disk. A half-written one is never at ``into``: it is written beside,
        as ``.half-<name>``, and renamed. A memory checkpoint holds memory, processes that descend from PID 1,
        their terminals, files (unlinked ones too), listening sockets and connections, and what was written
        over the template, /dev/shm too; not what is in volumes. A checkpoint of files holds what was written
        over the template, /tmp too, without /dev, /dev/shm and /run's mounts.

        With ``leave_running`` the machine stands still while it is written, and goes on. Without, it stands
        still from before the first byte on, and on return it has ended: no program inside runs again, nothing
        that is sent to it is answered, and there is no event. Its processes, whose memory the kernel takes
        back, its control group and its mounts are removed behind the return, which is tried until they go;
        ``start``, ``restore``, ``abandon``, ``destroy`` and ``close`` wait for a try that goes on. Only its
        slot stays, with its address, until it is restored or ``destroy`` is called; so ``remains`` lists it,
        while ``open`` and ``observe`` do not. On any failure it runs on, unless it is hung; what was written
        is removed.

        Args:
            sandbox_id: of a machine that runs.
            into: a directory that does not exist, on a disk; its parent does.
            kind: what is written.
            leave_running: whether the machine goes on.

        Raises:
            NotFoundError: no such machine.
            AlreadyExistsError: ``into`` is there.
            ResourceExhaustedError: the disk is full.
            DeadlineExceededError: it does not stand still or is not written in time; a hung machine, mostly.
            UnavailableError: it could not be written; details say what the host saw.
        """
        ...

    async def seal(self, origin: Path) -> Checkpoint:
        """
        Compute the checksums of a checkpoint that are still missing; a restore compares all that are known.

        Until then files above 8 MiB are known by their size only. Reads all of it; cancelled, it gives way at
        once, and they stay missing.

        Raises:
            NotFoundError: there is no checkpoint.
            FailedPreconditionError: it is damaged.
        """
        ...

    async def restore(
        self,
        spec: MachineSpec,
        origin: Path,
        *,
        listens: bool = True,
        came: Callable[[], None] = lambda: None,
    ) -> Machine:
        """
        Start a machine from a checkpoint; return when its guestd listens, without ``listens`` when it runs.
        ``came`` is called when it runs and only its guestd is waited for, which may take as long as its
        programs like; where nothing is waited for, it may not be called.

        The checkpoint stays as it is and can be restored any number of times, also at once. The machine has
        the spec's id, host name, memory, processors, process limit, policy, and volumes: other ones at the
        paths where it had some, and more; guestd still holds the configuration of the old one until it is
        configured with a newer generation, so nobody may be led there before. A sandbox that holds a slot
        keeps its address, and with it its connections; any other gets a new one, and connections end: what is
        read is their end, what is written fails. Its clock is right, boot_id is the old one after memory and
        a new one after files.
        getrandom differs between machines of one checkpoint; what programs have buffered does not.

        A failed or cancelled restore leaves remains that ``destroy`` removes; those of a sandbox that was
        checkpointed before hold its slot: ``destroy`` gives it back too. See ``abandon``.

        Raises:
            NotFoundError: the template is not built here, or there is no checkpoint.
            FailedPreconditionError: the checkpoint is damaged, or belongs to another program, processor,
                template or disk size, or had volumes where the spec has none; the message names it, and
                nothing runs.
            AlreadyExistsError: the machine runs.
            ResourceExhaustedError, UnavailableError, DeadlineExceededError: as for ``start``.
        """
        ...

    async def abandon(self, sandbox_id: SandboxId) -> None:
        """
        Remove all of a machine but its slot, as a checkpoint that ends it does: after a failed restore, the
        next one finds the address as it was. What it could reach stays as it is.

        Raises:
            UnavailableError: something would not go; it is tried again behind this, and calling may help.
        """
        ...

    async def attach(self, sandbox_id: SandboxId, mounts: Sequence[VolumeMount]) -> None:
        """
        Have volumes within a machine's reach, at ``VOLUMES``/``place`` inside; its guestd, which is told of
        them in its configuration, binds them to their paths. The same again is cheap. They stay
        until it ends.

        Raises:
            NotFoundError: no such machine, or no such volume.
            UnavailableError: the host refused; calling again may help.
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

    async def end_if_hung(self, sandbox_id: SandboxId) -> None:
        """
        Look whether a machine answers, and end it if not; its end is told as an event.

        A no-op for one that is not there. Takes seconds where it hangs, and keeps nobody else waiting.
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
        """
        Read what every machine uses, keeping nobody waiting; those that end meanwhile miss.

        Of one that had no processor since an earlier call, what it holds may be that call's, for 30 s.
        """
        ...
