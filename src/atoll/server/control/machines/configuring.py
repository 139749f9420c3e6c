"""Tells a machine that has come up who it is: after a start, a resume and a claim."""

import hashlib
from collections.abc import Callable

from atoll.server.control.limits import ControlLimits
from atoll.server.control.rows import access
from atoll.server.control.work.waiting import within
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import GuestConfiguration, Machine, MachineSpec
from atoll.server.domain.sandbox import Sandbox
from atoll.server.domain.template import StartCommand, Template
from atoll.server.domain.volume import VolumeMount
from atoll.server.ports.guest import Guest


class Configuring:
    """Configures machines."""

    def __init__(
        self, *, guest: Guest, limits: ControlLimits, secret: bytes, dns_servers: tuple[str, ...]
    ) -> None:
        self._guest = guest
        self._limits = limits
        self._secret = secret
        self._dns_servers = dns_servers

    async def configure(
        self,
        row: Sandbox,
        machine: Machine,
        template: Template,
        *,
        booted: bool = True,
        claimed: bool = False,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Return when a machine may be led to.

        Args:
            row: the sandbox's; its generation is newer than what the machine knows, if anything.
            machine: the machine.
            template: what the sandbox is made from.
            booted: whether the template's start command does not run yet, or is to run again.
            claimed: whether it waited in the pool, where it was introduced after its restore.
            step: told what is being done.

        Raises:
            AtollError: it does not take its configuration, or does not get ready.
        """
        timeout = self._limits.configure_timeout
        step("configure")
        told = self._guest.configure(machine, self._configuration(row, machine, template, claimed=claimed))
        await within(timeout, "take its configuration", told)
        if row.egress.rules:
            step("trust")
            await within(timeout, "trust its rules", self._guest.trust_edge(machine))
        if template.start is not None and booted:
            step("launch")
            await self.launch(machine, template.start)

    async def introduce(self, machine: Machine, template: Template, limits: Limits, generation: int) -> None:
        """
        Tell a machine that is nobody's yet who it will be, with its name for an id and all that is its own.

        Nobody is led there before it is configured for a sandbox.

        Raises:
            AtollError: it does not take that.
        """
        told = self._guest.configure(
            machine,
            self._told(
                machine,
                template,
                limits=limits,
                generation=generation,
                team_id="",
                env=template.env,
                access_token=access.access_token(self._secret, machine.sandbox_id),
                claimed=False,
            ),
            waits=True,
        )
        await within(self._limits.configure_timeout, "take its configuration", told)

    async def launch(self, machine: Machine, start: StartCommand) -> None:
        """
        Run a template's start command; return when it is ready.

        Raises:
            AtollError: it does not get ready.
        """
        await self._guest.launch(machine, start)

    def _configuration(
        self, row: Sandbox, machine: Machine, template: Template, *, claimed: bool
    ) -> GuestConfiguration:
        return self._told(
            machine,
            template,
            limits=row.limits,
            generation=row.generation,
            team_id=row.team_id,
            env=tuple({**dict(template.env), **row.env}.items()),
            access_token=access.access_token(self._secret, row.id) if row.secured else "",
            volumes=row.volumes,
            claimed=claimed,
        )

    def _told(
        self,
        machine: Machine,
        template: Template,
        *,
        limits: Limits,
        generation: int,
        team_id: str,
        env: tuple[tuple[str, str], ...],
        access_token: str,
        volumes: tuple[VolumeMount, ...] = (),
        claimed: bool,
    ) -> GuestConfiguration:
        sandbox_id = machine.sandbox_id
        return GuestConfiguration(
            generation=generation,
            sandbox_id=sandbox_id,
            template_id=template.id,
            team_id=team_id,
            hostname=sandbox_id,
            machine_id=hashlib.sha256(b"machine-id " + sandbox_id.encode()).hexdigest()[:32],
            env=env,
            access_token=access_token,
            default_user=template.default_user,
            default_workdir=template.default_workdir,
            processes=limits.processes,
            memory_bytes=limits.memory_bytes,
            address=machine.address,
            dns_servers=self._dns_servers,
            volumes=volumes,
            claimed=claimed,
        )


def spec_of(row: Sandbox) -> MachineSpec:
    """Say which machine a sandbox has."""
    return MachineSpec(
        sandbox_id=row.id,
        template_id=row.template_id,
        hostname=row.id,
        limits=row.limits,
        egress=row.egress.fenced(),
        volumes=row.volumes,
    )
