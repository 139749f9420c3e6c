"""Puts the parts of control together: who knows whom is here, what each does beside it."""

from collections.abc import Callable
from dataclasses import dataclass

from atoll.server.control.lifecycle.addresses import Addresses
from atoll.server.control.lifecycle.checkpointing import Checkpointing
from atoll.server.control.lifecycle.creating import Creating
from atoll.server.control.lifecycle.deadlines import Deadlines
from atoll.server.control.lifecycle.making import Making
from atoll.server.control.lifecycle.networking import Networking
from atoll.server.control.lifecycle.pausing import Pausing
from atoll.server.control.lifecycle.restoring import Restoring
from atoll.server.control.lifecycle.sealing import Sealing
from atoll.server.control.lifecycle.snapshots import Snapshots
from atoll.server.control.lifecycle.starting import Starting
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.configuring import Configuring
from atoll.server.control.machines.killing import Killing, Parting
from atoll.server.control.machines.probing import Probing
from atoll.server.control.owned.volumes import Volumes
from atoll.server.control.reach.finding import Finding
from atoll.server.control.reach.routing import Routing
from atoll.server.control.rows.reading import Reading
from atoll.server.control.turns.admission import Admission
from atoll.server.control.turns.locks import Locks
from atoll.server.control.upkeep.closing import Closing
from atoll.server.control.upkeep.forgetting import Forgetting
from atoll.server.control.upkeep.idling import Idling
from atoll.server.control.upkeep.parking import Parking
from atoll.server.control.upkeep.reconciling import Reconciling
from atoll.server.control.upkeep.reviving import Reviving
from atoll.server.control.upkeep.scheduling import Scheduling
from atoll.server.control.upkeep.settling import Settling
from atoll.server.control.warm.pool import Pool, PoolLimits
from atoll.server.control.warm.refilling import Refilling
from atoll.server.control.warm.warming import Warming
from atoll.server.control.work.tasks import Tasks
from atoll.server.control.work.underway import Underway
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.edge import Edge
from atoll.server.ports.guest import Guest
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.snapshots import SnapshotStore
from atoll.server.ports.store import Store
from atoll.server.ports.templates import Templates


@dataclass(frozen=True, kw_only=True)
class Ports:
    """
    What control works with.

    Attributes:
        store: over a database that whoever made it opens and closes; so ``api_keys``.
        checkpoints: what paused sandboxes come back from, and snapshots.
        free_memory: bytes that the host has available now.
        parting: done with a sandbox before it is removed.
        runtime: opened and closed by control.
    """

    store: Store
    api_keys: ApiKeys
    runtime: Runtime
    guest: Guest
    edge: Edge
    templates: Templates
    volumes: Volumes
    clock: Clock
    checkpoints: Checkpoints
    snapshots: SnapshotStore
    free_memory: Callable[[], int]
    parting: Parting | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the verbs are made of."""

    tasks: Tasks
    killing: Killing
    deadlines: Deadlines
    pool: Pool
    admission: Admission
    refilling: Refilling
    creating: Creating
    reading: Reading
    sealing: Sealing
    pausing: Pausing
    settling: Settling
    snapshots: Snapshots
    reviving: Reviving
    closing: Closing
    scheduling: Scheduling
    idling: Idling
    networking: Networking
    reconciling: Reconciling
    forgetting: Forgetting
    routing: Routing


def assemble(
    ports: Ports,
    *,
    secret: bytes,
    dns_servers: tuple[str, ...],
    limits: ControlLimits,
    pool: PoolLimits,
) -> Parts:
    """
    Make the parts, which begin to work when control opens.

    Args:
        ports: everything outside.
        secret: what access tokens derive from; 32 bytes.
        dns_servers: name servers that sandboxes use, as seen from inside.
        limits: how much and how long.
        pool: how many machines wait to be claimed.
    """
    tasks = Tasks()
    locks = Locks()
    killing = Killing(
        store=ports.store,
        runtime=ports.runtime,
        edge=ports.edge,
        clock=ports.clock,
        limits=limits,
        locks=locks,
        tasks=tasks,
        checkpoints=ports.checkpoints,
        parting=ports.parting,
    )
    deadlines = Deadlines(store=ports.store, clock=ports.clock, limits=limits, killing=killing)
    configuring = Configuring(guest=ports.guest, limits=limits, secret=secret, dns_servers=dns_servers)
    warming = Warming(
        runtime=ports.runtime,
        checkpoints=ports.checkpoints,
        templates=ports.templates,
        configuring=configuring,
        killing=killing,
        limits=limits,
    )
    shelves = Pool(
        warming=warming,
        killing=killing,
        clock=ports.clock,
        pool=pool,
        free_memory=ports.free_memory,
    )
    admission = Admission(
        at_once=limits.concurrent_starts,
        most_waiting=limits.queued_starts,
        longest_wait=limits.start_queue_timeout,
        reserved=limits.reserved_starts,
        spare_at_once=max(pool.refills_at_once, 1),
        guest_patience=limits.guest_patience,
        calm=shelves.rest,
    )
    refilling = Refilling(
        pool=shelves,
        runtime=ports.runtime,
        checkpoints=ports.checkpoints,
        templates=ports.templates,
        warming=warming,
        configuring=configuring,
        killing=killing,
        admission=admission,
        clock=ports.clock,
        limits=limits,
        pool_limits=pool,
    )
    addresses = Addresses(
        store=ports.store,
        runtime=ports.runtime,
        edge=ports.edge,
        pool=shelves,
        clock=ports.clock,
        limits=limits,
        locks=locks,
    )
    starting = Starting(
        runtime=ports.runtime, checkpoints=ports.checkpoints, addresses=addresses, limits=limits
    )
    making = Making(
        runtime=ports.runtime,
        configuring=configuring,
        limits=limits,
        pool=shelves,
        warming=warming,
        starting=starting,
    )
    creating = Creating(
        store=ports.store,
        runtime=ports.runtime,
        edge=ports.edge,
        volumes=ports.volumes,
        clock=ports.clock,
        limits=limits,
        locks=locks,
        tasks=tasks,
        killing=killing,
        deadlines=deadlines,
        admission=admission,
        pool=shelves,
        making=making,
    )
    reading = Reading(store=ports.store, limits=limits)
    sealing = Sealing(runtime=ports.runtime, checkpoints=ports.checkpoints, tasks=tasks)
    probing = Probing(store=ports.store, guest=ports.guest, locks=locks, tasks=tasks, killing=killing)
    underway = Underway(tasks, clock=ports.clock, settle_tries=limits.settle_tries)
    checkpointing = Checkpointing(
        store=ports.store,
        runtime=ports.runtime,
        edge=ports.edge,
        checkpoints=ports.checkpoints,
        clock=ports.clock,
        limits=limits,
        locks=locks,
        sealing=sealing,
        underway=underway,
        admission=admission,
        killing=killing,
        deadlines=deadlines,
        probing=probing,
    )
    restoring = Restoring(
        store=ports.store,
        api_keys=ports.api_keys,
        runtime=ports.runtime,
        checkpoints=ports.checkpoints,
        templates=ports.templates,
        clock=ports.clock,
        limits=limits,
        locks=locks,
        tasks=tasks,
        sealing=sealing,
        underway=underway,
        admission=admission,
        configuring=configuring,
        deadlines=deadlines,
        starting=starting,
        addresses=addresses,
    )
    pausing = Pausing(
        store=ports.store,
        clock=ports.clock,
        limits=limits,
        reading=reading,
        underway=underway,
        checkpointing=checkpointing,
        restoring=restoring,
    )
    settling = Settling(
        store=ports.store,
        runtime=ports.runtime,
        checkpoints=ports.checkpoints,
        killing=killing,
        underway=underway,
        checkpointing=checkpointing,
        restoring=restoring,
    )
    deadlines.pause = pausing.expire
    snapshots = Snapshots(
        snapshots=ports.snapshots,
        store=ports.store,
        runtime=ports.runtime,
        checkpoints=ports.checkpoints,
        templates=ports.templates,
        clock=ports.clock,
        limits=limits,
        locks=locks,
        tasks=tasks,
        sealing=sealing,
        admission=admission,
        reading=reading,
        creating=creating,
    )
    reviving = Reviving(
        store=ports.store,
        runtime=ports.runtime,
        edge=ports.edge,
        checkpoints=ports.checkpoints,
        snapshots=ports.snapshots,
        clock=ports.clock,
        limits=limits,
        locks=locks,
        tasks=tasks,
        restoring=restoring,
    )
    killing.revive = reviving.begin
    scheduling = Scheduling(
        store=ports.store,
        snapshots=snapshots,
        clock=ports.clock,
        limits=limits,
        admission=admission,
    )
    idling = Idling(
        store=ports.store,
        edge=ports.edge,
        clock=ports.clock,
        killing=killing,
        pausing=pausing,
    )
    deadlines.others += [scheduling.appeared, idling.appeared]
    networking = Networking(
        store=ports.store,
        runtime=ports.runtime,
        guest=ports.guest,
        edge=ports.edge,
        clock=ports.clock,
        limits=limits,
        locks=locks,
        tasks=tasks,
    )
    reconciling = Reconciling(
        store=ports.store,
        runtime=ports.runtime,
        clock=ports.clock,
        limits=limits,
        tasks=tasks,
        creating=creating,
        settling=settling,
        snapshots=snapshots,
        killing=killing,
        networking=networking,
        pool=shelves,
        warming=warming,
        reviving=reviving,
    )
    forgetting = Forgetting(store=ports.store, clock=ports.clock, limits=limits)
    finding = Finding(store=ports.store, reading=reading, secret=secret)
    closing = Closing(
        runtime=ports.runtime,
        limits=limits,
        tasks=tasks,
        creating=creating,
        settling=settling,
        snapshots=snapshots,
        reviving=reviving,
        parking=Parking(store=ports.store, pausing=pausing, settling=settling, reviving=reviving),
        reconciling=reconciling,
    )
    routing = Routing(
        reading=reading,
        finding=finding,
        pausing=pausing,
        reconciling=reconciling,
        probing=probing,
    )
    return Parts(
        tasks=tasks,
        killing=killing,
        deadlines=deadlines,
        pool=shelves,
        admission=admission,
        refilling=refilling,
        creating=creating,
        reading=reading,
        sealing=sealing,
        pausing=pausing,
        settling=settling,
        snapshots=snapshots,
        reviving=reviving,
        closing=closing,
        scheduling=scheduling,
        idling=idling,
        networking=networking,
        reconciling=reconciling,
        forgetting=forgetting,
        routing=routing,
    )
