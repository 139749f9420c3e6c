"""The port to guestd, the daemon inside a sandbox."""

from collections.abc import Sequence
from typing import Protocol

from atoll.server.domain.logs import Line
from atoll.server.domain.machine import GuestConfiguration, KilledProcess, Machine
from atoll.server.domain.template import StartCommand


class Guest(Protocol):
    """
    Calls guestd's private service.

    The guest is hostile: answers are bounded in size and time, and believed in nothing that matters.
    """

    async def configure(
        self, machine: Machine, configuration: GuestConfiguration, *, waits: bool = False
    ) -> None:
        """
        Send a sandbox all it has to know; return when it holds.

        Args:
            machine: whose.
            configuration: what.
            waits: whether the machine waits after that until it is claimed, with a second such call. That and
                the first command are then to be quick.

        Raises:
            UnavailableError: the guest did not answer in time, or refused.
        """
        ...

    async def trust_edge(self, machine: Machine) -> None:
        """
        Have its programs trust what the edge shows them for names of rules; again is the same.

        Raises:
            UnavailableError: the guest did not answer in time, or refused.
        """
        ...

    async def launch(self, machine: Machine, start: StartCommand) -> None:
        """
        Run a template's start command in a configured sandbox; return when its probe says that it is ready.

        Raises:
            FailedPreconditionError: the command ended with an error, or was not ready in time; details hold
                the end of what it said.
            UnavailableError: the guest did not answer, or refused.
        """
        ...

    async def kill_greediest(self, machine: Machine, *, excess_bytes: int) -> Sequence[KilledProcess]:
        """
        Have the process killed that holds most memory, then the next, until they held ``excess_bytes``.

        Returns those that were killed, none when there was nothing to kill.

        Raises:
            UnavailableError: the guest did not answer in time, or refused.
        """
        ...

    async def probe(self, machine: Machine) -> None:
        """
        Return once guestd has answered anything that makes sense.

        No call waits for another: it would take the wait for silence. Who calls sees to how many there are.

        Raises:
            UnavailableError: it does not, though it got more time than a busy one needs.
        """
        ...

    async def read_journal(self, machine: Machine, *, after: int) -> tuple[Sequence[Line], bool]:
        """
        Read what happened inside, lines with numbers after ``after``, and whether there are more.

        Raises:
            UnavailableError: the guest did not answer in time, or is another sandbox by now.
        """
        ...
