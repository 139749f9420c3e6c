"""
Ends homes whose directory is gone: what still runs of them, and all that they have on this machine.

Nothing can be written down for them, and nobody can manage their sandboxes any more. Where nothing of one
runs, the next start of any home does it unasked.
"""

import asyncio
import contextlib
from pathlib import Path

import structlog

from atoll.server.domain.errors import FailedPreconditionError, UnavailableError
from atoll.server.host import cgroup
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.host.pidfd import Pidfd
from atoll.server.main import left_names
from atoll.server.network import dead_homes, homes_here
from atoll.server.network.home_network import RUN_DIR
from atoll.server.network.homes_here import HomeHere
from atoll.server.network.life import hold_edges
from atoll.server.network.names import Names
from atoll.server.runtimes.gvisor.places import cgroup_parent

log = structlog.get_logger(__name__)

# A server has nothing to keep any more, and an edge lets requests under way go on for 2 s.
_END_PATIENCE_S = 5.0
# As for sandboxes that are killed one by one.
_KILL_TIMEOUT_S = 30.0


def look() -> list[HomeHere]:
    """
    List all homes that have something on this machine; blocks.

    Raises:
        UnavailableError: the kernel does not let us look.
    """
    return homes_here.look(cgroup_parent, run_dir=RUN_DIR)


async def end_at(directory: Path, *, force: bool) -> list[str]:
    """End the homes that were in a directory in which no home is; returns their ids. Errors as of ``end``."""
    found = [one for one in await asyncio.to_thread(look) if one.directory == directory and one.is_gone]
    for one in found:
        await _end(one, force=force)
    return [one.id for one in found]


async def end(home_id: str, *, force: bool) -> bool:
    """
    End a home whose directory is gone, or not known; False: nothing of it is here. May be repeated.

    Args:
        home_id: 6 hexadecimal digits.
        force: whether its sandboxes end, too, whose files are lost then.

    Raises:
        InvalidArgumentError: that is no id.
        FailedPreconditionError: the home is there; or without force: sandboxes of it run; or what
            ``atoll dns install`` changed cannot be put back.
        UnavailableError: something would not go; calling again may help.
    """
    Names(home_id)
    found = next((one for one in await asyncio.to_thread(look) if one.id == home_id), None)
    if found is None:
        # The start of another home has cleaned up, or the machine was restarted.
        return bool(await asyncio.to_thread(left_names.take_out, home_id))
    if found.record is not None and not found.is_gone:
        raise FailedPreconditionError(
            f"The directory of home {home_id} is there: {found.directory}",
            resolution=f"`atoll down --home {found.directory}` takes it down.",
        )
    await _end(found, force=force)
    return True


async def _end(home: HomeHere, *, force: bool) -> None:
    where = f"its directory {home.directory} is gone" if home.directory else "its directory is not known"
    if home.life.sandboxes and not force:
        raise FailedPreconditionError(
            f"Sandboxes of home {home.id} run, and cannot be written down: {where}",
            details=f"{home.life}",
            resolution="Is it on a disk that is not mounted? Then mount it, and call `atoll down --home`. "
            f"Else `atoll down --home-id {home.id} --force` ends them; their files are lost.",
        )
    log.info("ending a home without its directory", home_id=home.id, runs=str(home.life))
    # The server first, which would start the edge again.
    server = home.record.running_server() if home.record else None
    await _terminate([server] if server else [])
    await _terminate(await asyncio.to_thread(hold_edges, home.claimed) if home.claimed else [])
    group = home.record.cgroup if home.record else cgroup_parent(home.id)
    try:
        for name in cgroup.children(group):
            await cgroup.open_cgroup(f"{group}/{name}").kill(timeout_s=_KILL_TIMEOUT_S)
        await asyncio.to_thread(cgroup.remove_with_children, group)
    except CgroupError as error:
        raise UnavailableError(f"Sandboxes of home {home.id} would not end", details=str(error)) from error
    for change in await asyncio.to_thread(dead_homes.give_up, home.id, run_dir=RUN_DIR):
        log.info("host setting changed", change=str(change))
    # Last: a file that cannot be put back must keep nothing alive.
    await asyncio.to_thread(left_names.take_out, home.id)


async def _terminate(processes: list[Pidfd]) -> None:
    with contextlib.ExitStack() as stack:
        for held in processes:
            stack.enter_context(held)
        for held in processes:
            try:
                await held.terminate(patience_s=_END_PATIENCE_S)
            except TimeoutError as error:
                raise UnavailableError(f"Process {held.identity.pid} outlives SIGKILL") from error
