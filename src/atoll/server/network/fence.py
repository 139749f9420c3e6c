"""
The fence of one home: its nftables table, and who may pass.

Remembers whom it admitted, and so can be put up again when somebody has flushed the host's rules.
Its methods block, for parts of a millisecond, and may be called from any thread.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Mapping

import structlog

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import UnavailableError
from atoll.server.host.netlink import Network
from atoll.server.host.nftables import NftablesError, NoSuchObjectError, Packetfilter
from atoll.server.network import ruleset
from atoll.server.network.kernel_errors import translated
from atoll.server.network.names import Names
from atoll.server.network.ruleset import Rules

log = structlog.get_logger(__name__)


class Fence:
    """Rules for all sandboxes of a home at once, and one element for each."""

    def __init__(self, rules: Rules, nftables: Packetfilter) -> None:
        self._rules = rules
        self._nftables = nftables
        self._admitted: dict[int, EgressPolicy] = {}
        self._silent: set[int] = set()
        self._turn = threading.Lock()

    def put_up(self, admitted: Mapping[int, EgressPolicy]) -> None:
        """
        Put the fence up, in place of any that stands, in one step; only these slots are admitted.

        Raises:
            UnavailableError: the kernel refused; what stood before stands.
        """
        with self._turn:
            self._admitted = dict(admitted)
            self._put_up()

    def put_up_again(self, on_link: tuple[Network, ...] | None = None) -> None:
        """Put it up as it was, or with other networks on the host's links."""
        with self._turn:
            if on_link is not None:
                self._rules = dataclasses.replace(self._rules, on_link=on_link)
            self._put_up()

    def stands(self) -> bool:
        """Say whether the table is there."""
        try:
            self._nftables.run(f"list chain inet {self._rules.names.table} arriving")
        except NftablesError:
            return False
        return True

    @property
    def on_link(self) -> tuple[Network, ...]:
        """The networks on the host's links that it keeps sandboxes from."""
        return self._rules.on_link

    def admit(self, number: int, policy: EgressPolicy) -> None:
        """
        Let a slot's packets pass as a policy says; until then it is closed.

        Raises:
            UnavailableError: the kernel refused.
        """
        with self._turn, translated("open the fence for a sandbox"):
            before = self._admitted.get(number)
            if before == policy:
                return
            self._admitted[number] = policy
            commands = ruleset.admit(self._rules, number, policy)
            if before is not None:
                commands = [*ruleset.dismiss(self._rules, number, before), *commands]
            try:
                self._change(commands)
            except UnavailableError:
                # As the kernel has it: else the same call again would do nothing.
                self._admitted.pop(number)
                if before is not None:
                    self._admitted[number] = before
                raise

    def dismiss(self, number: int) -> None:
        """
        Close the fence for a slot; a no-op when it is closed.

        Raises:
            UnavailableError: the kernel refused.
        """
        with self._turn, translated("close the fence for a sandbox"):
            # Never tried in vain: a transaction that fails makes the kernel wait, for 15 ms.
            if (before := self._admitted.pop(number, None)) is not None:
                self._change(ruleset.dismiss(self._rules, number, before))

    def hush(self, number: int, *, silent: bool) -> None:
        """
        Let nothing that comes out of a slot pass, without an answer; or let it pass again.

        Raises:
            UnavailableError: the kernel refused.
        """
        with self._turn, translated("silence a sandbox"):
            if (number in self._silent) is silent:
                return
            before = set(self._silent)
            (self._silent.add if silent else self._silent.discard)(number)
            try:
                self._change([ruleset.hush(self._rules, number, silent=silent)])
            except UnavailableError:
                self._silent = before
                raise

    def _put_up(self) -> None:
        elements = [
            command
            for number, policy in sorted(self._admitted.items())
            for command in ruleset.admit(self._rules, number, policy)
        ]
        elements += [ruleset.hush(self._rules, number, silent=True) for number in sorted(self._silent)]
        with translated("put up the fence around the sandboxes"):
            self._nftables.run(ruleset.ruleset(self._rules, elements))

    def _change(self, commands: list[str]) -> None:
        try:
            self._nftables.run("\n".join(commands))
        except NftablesError as error:
            # Not as we left it: somebody changed or removed it.
            log.warning("the fence is put up again", table=self._rules.names.table, error=str(error))
            self._put_up()


def take_down(names: Names, nftables: Packetfilter) -> None:
    """
    Remove the fence of a home; a no-op when there is none.

    Raises:
        UnavailableError: the kernel refused.
    """
    with translated("take down the fence"), contextlib.suppress(NoSuchObjectError):
        nftables.run(f"delete table inet {names.table}")
