"""The parts of a machine that runs sandboxes in gVisor: network, edge, templates, runtime."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import structlog
from typing_extensions import override

from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.template import Template
from atoll.server.edge.certificates import ensure_egress_authority
from atoll.server.edge.process import EdgeOptions, EdgeProcess
from atoll.server.edge.tls import EdgeTLS
from atoll.server.guests.client import HttpGuest
from atoll.server.host import meminfo
from atoll.server.host.ports import free_port
from atoll.server.images.library import TemplateLibrary
from atoll.server.images.old_builds import OldBuilds
from atoll.server.main.doors import Doors
from atoll.server.main.parts import HostParts, Purpose
from atoll.server.main.storage import make_storage
from atoll.server.network import home_network
from atoll.server.network.home_records import HomeRecord
from atoll.server.network.names import EGRESS_MARK, GATEWAY, AddressRange
from atoll.server.network.ranges import SUPERNET
from atoll.server.network.slots import SlotPool
from atoll.server.ports.edge import Edge
from atoll.server.runtimes.gvisor.old_programs import OldPrograms, templates_in_use
from atoll.server.runtimes.gvisor.places import Places, cgroup_parent
from atoll.server.runtimes.gvisor.release import RunscRelease
from atoll.server.runtimes.gvisor.runtime import GVisorRuntime
from atoll.server.settings import Settings
from atoll.server.settings.home import Home
from atoll.server.volumes.images import VolumeImages

log = structlog.get_logger(__name__)

# What is being done, and how far it is: 0 to 1, or None when nobody knows.
Progress = Callable[[str, float | None], None]


async def prepare(home: Home, settings: Settings, progress: Progress) -> None:
    """
    Get runsc and build the templates that a server starts with; returns at once what is there already.

    Raises:
        AtollError: something cannot be had; details say why.
    """
    release = RunscRelease(home.runsc, probe=program("atoll-guestd"))
    await release.ensure(lambda step: progress(step.text, step.done / step.total if step.total else None))
    for name in settings.templates.built_at_start.split(","):
        if name.strip():
            await build_template(home, settings, name.strip(), progress)


async def build_template(home: Home, settings: Settings, name: str, progress: Progress) -> Template:
    """
    Build what a recipe makes, and return at once what is there already; a server that runs finds it.

    Raises:
        AtollError: there is no such recipe, or it cannot be built; details say why.
    """
    return await _library(home, settings).ensure(name, partial(_build_progress, progress, name))


@contextlib.asynccontextmanager
async def gvisor_host(home: Home, settings: Settings, purpose: Purpose) -> AsyncIterator[HostParts]:
    """Make the parts; see ``parts.HostFactory``."""
    addresses = await _prepare_network(home) if purpose is Purpose.SERVE else _addresses_before(home)
    dns_port, egress_port = _dns_port(home), _egress_port(home)
    doors = Doors(home, settings)
    if purpose is Purpose.SERVE:
        await doors.open()
    authority = await asyncio.to_thread(
        ensure_egress_authority, home.egress_authority, home.id, SystemClock().now()
    )
    edge = EdgeProcess(_edge_options(home, settings, addresses, doors.tls), settings.edge)
    slots = SlotPool(
        home.id,
        addresses,
        slots_dir=home.slots,
        run_dir=home_network.RUN_DIR,
        dns_port=dns_port,
        egress_port=egress_port,
        ready=settings.network.ready_slots if purpose is Purpose.SERVE else 0,
        most_connections=settings.network.most_connections,
    )
    async with contextlib.AsyncExitStack() as stack:
        guest = await stack.enter_async_context(
            HttpGuest(clock=SystemClock(), limits=settings.guests, edge_authority=authority)
        )
        stack.push_async_callback(edge.close)
        if purpose is Purpose.TAKE_DOWN:
            await edge.stop()
        # The fence stands before anything may go through it.
        await slots.open()
        stack.push_async_callback(slots.close)
        if purpose is Purpose.SERVE:
            await edge.ensure()
        templates = _library(home, settings)
        volumes = VolumeImages(home.volumes)
        places = Places(
            home_id=home.id,
            sandboxes=home.sandboxes,
            volume_mounts=home.volume_mounts,
            runsc_state=home.runsc_state,
            runsc=await _runsc(home, purpose),
            guestd=program("atoll-guestd"),
            guestds=home.guestds,
            runscs=home.runsc,
        )
        runtime = GVisorRuntime(
            places=places,
            templates=templates,
            slots=slots,
            guest=guest,
            volumes=volumes,
            options=settings.gvisor,
        )

        def in_use() -> frozenset[str]:
            return templates_in_use(places, home.checkpoints)

        storage = make_storage(home, settings.storage, program("atoll-blobs"))

        async def watch() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(edge.watch(), name="watch the edge")
                group.create_task(doors.watch(), name="renew certificates")

        async def take_down() -> None:
            await slots.close()
            await doors.take_down()
            await volumes.let_go()
            await asyncio.to_thread(runtime.remove_shared)
            await asyncio.to_thread(
                home_network.teardown, home.id, slots_dir=home.slots, run_dir=home_network.RUN_DIR
            )

        yield HostParts(
            runtime=runtime,
            guest=guest,
            edge=edge if purpose is Purpose.SERVE else _EndedEdge(),
            templates=templates,
            volumes=volumes,
            checkpoints=storage.checkpoints,
            packing=storage.packer,
            collectors=(
                *storage.collectors,
                OldPrograms(
                    places=places, programs=runtime.programs, checkpoints=home.checkpoints, shared=home.shares
                ),
                *(() if home.shares else (OldBuilds(templates, in_use),)),
            ),
            dns_servers=(str(GATEWAY),),
            free_memory=meminfo.available_bytes,
            watch=watch,
            take_down=take_down,
        )


class _EndedEdge(Edge):
    """An edge that has ended, and so has forgotten everything."""

    @override
    async def forget(self, sandbox_id: SandboxId) -> None:
        return

    @override
    async def ask_again(self, sandbox_id: SandboxId) -> None:
        return

    @override
    async def retire(self, sandbox_id: SandboxId, *, idle_for: timedelta) -> timedelta | None:
        # Nobody calls through it; but that is no idling.
        return idle_for

    @override
    async def forget_egress(self, sandbox_id: SandboxId, *, unless: str = "") -> None:
        return

    @override
    async def check_proxy(self, host: str) -> None:
        raise UnavailableError("The server is stopping")


def program(name: str) -> Path:
    """
    Find one of our Go programs: beside Python's, where pip puts them, or on PATH.

    Raises:
        FailedPreconditionError: it is in neither place.
    """
    beside = Path(sys.executable).parent / name
    found = beside if beside.exists() else shutil.which(name)
    if found is None:
        raise FailedPreconditionError(
            f"The program {name} is missing",
            details=f"neither beside {sys.executable} nor on PATH",
            resolution="Install Atoll for Linux: pip install 'atoll[server]'.",
        )
    return Path(found).resolve()


def _build_progress(progress: Progress, name: str, phase: str, part: float) -> None:
    progress(f"template {name}: {phase}", part)


def _library(home: Home, settings: Settings) -> TemplateLibrary:
    return TemplateLibrary(home.templates, guest_ca=settings.templates.guest_ca)


async def _prepare_network(home: Home) -> AddressRange:
    record = HomeRecord.by_this_process(
        identity=home.identity,
        public=home.public,
        mounts=(home.volume_mounts, home.volumes, home.runsc_state),
        cgroup=cgroup_parent(home.id),
    )
    prepared = await asyncio.to_thread(
        home_network.prepare, home.id, record=record, wanted=home.address_range
    )
    if prepared.addresses.v4 != home.address_range:
        home.keep_address_range(prepared.addresses.v4)
    for change in prepared.changes:
        log.info("host setting changed", change=str(change))
    return prepared.addresses


def _addresses_before(home: Home) -> AddressRange:
    """What a home has that is only to end: it claims nothing, so it ends where all ranges are taken, too."""
    # Without a range it never had a slot, and its names find all that there is.
    return AddressRange.of(home.id, home.address_range or SUPERNET)


def _dns_port(home: Home) -> int:
    # Kept: another port is another edge, and a new edge cuts every stream.
    port = home.dns_port
    if port is None:
        port = _free_port()
        home.keep_dns_port(port)
    return port


def _egress_port(home: Home) -> int:
    port = home.egress_port
    if port is None:
        port = _free_port()
        home.keep_egress_port(port)
    return port


def _free_port() -> int:
    try:
        return free_port()
    except OSError as error:
        raise UnavailableError(
            "No port is free for what sandboxes reach",
            details=str(error),
            resolution="`ss --listening --tcp --udp --processes` shows who has them",
        ) from error


def _edge_options(
    home: Home, settings: Settings, addresses: AddressRange, tls: EdgeTLS | None
) -> EdgeOptions:
    return EdgeOptions(
        program=program("atoll-edge"),
        listen=(settings.server.listen,),
        api_socket=home.api_socket,
        control_socket=home.control_socket,
        admin_socket=home.edge_socket,
        address_range=str(addresses.v4),
        dns_listen=f"{GATEWAY}:{_dns_port(home)}",
        egress_listen=f"{GATEWAY}:{_egress_port(home)}",
        egress_mark=EGRESS_MARK,
        log_file=home.edge_log,
        log_bytes=settings.server.log_bytes,
        log_files=settings.server.log_files,
        tls=tls,
        egress_authority=home.egress_authority,
        server_roots=Path(roots).absolute() if (roots := settings.network.server_roots) else None,
        proxy_networks=_networks(settings.network.proxy_networks),
    )


def _networks(words: str) -> tuple[str, ...]:
    """
    Read networks that are separated by commas.

    Raises:
        InvalidArgumentError: one is none.
    """
    try:
        return tuple(str(ip_network(word.strip())) for word in words.split(",") if word.strip())
    except ValueError as error:
        raise InvalidArgumentError(f"network.proxy_networks: {error}") from error


async def _runsc(home: Home, purpose: Purpose) -> Path:
    release = RunscRelease(home.runsc, probe=program("atoll-guestd"))
    if purpose is Purpose.SERVE:
        return await release.ensure()
    # To end sandboxes and clean up behind them any will do, even none.
    try:
        return next(iter(release.installed().values()), None) or program("runsc")
    except FailedPreconditionError:
        return home.runsc / "runsc"
