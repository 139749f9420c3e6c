"""The port to slots: pre-made network namespaces that machines run in."""

from dataclasses import dataclass
from typing import Protocol

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import SandboxId


@dataclass(frozen=True, kw_only=True)
class Slot:
    """
    A network namespace with one interface, addressed and fenced.

    Attributes:
        name: the namespace's name.
        netns: its path, to hand to a runtime.
        address: the sandbox's IPv4 address; only this host reaches it.
        dns_servers: addresses, inside the sandbox's reach, that resolve names.
    """

    name: str
    netns: str
    address: str
    dns_servers: tuple[str, ...]


class Slots(Protocol):
    """
    Gives each sandbox a slot of its own.

    Which slot belongs to whom is kept where a new process finds it.
    """

    async def acquire(self, sandbox_id: SandboxId, egress: EgressPolicy) -> Slot:
        """
        Take a slot, or the one that the sandbox holds, with its addresses as for a first use; its fence
        stands before this returns.

        Raises:
            ResourceExhaustedError: the home's address range is used up (``ADDRESSES_USED_UP``).
            UnavailableError: the kernel refused; details say what.
        """
        ...

    async def update(self, sandbox_id: SandboxId, egress: EgressPolicy) -> None:
        """
        Fence a held slot otherwise, in one step; its open connections are judged anew too.

        Raises:
            NotFoundError: the sandbox holds none.
            UnavailableError: the kernel refused; calling again may help.
        """
        ...

    async def hush(self, sandbox_id: SandboxId, silent: bool) -> None:
        """
        Have nothing that a sandbox sends leave its slot, without an answer; or let it through again.

        What is written down of a machine cannot take back what it sends after that; and while one comes back,
        nobody may answer in its place. A no-op when it is so
        already, or when it holds no slot; nobody is silent any more after a restart of the server.

        Raises:
            UnavailableError: the kernel refused.
        """
        ...

    async def find(self, sandbox_id: SandboxId) -> Slot | None:
        """Return the slot that a sandbox holds, if it holds one."""
        ...

    async def release(self, sandbox_id: SandboxId) -> None:
        """
        Take a sandbox's slot away: namespace, interface, firewall entries.

        A no-op when it holds none.
        """
        ...

    async def held(self) -> frozenset[SandboxId]:
        """List the sandboxes that hold a slot."""
        ...
