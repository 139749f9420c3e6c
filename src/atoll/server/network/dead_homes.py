"""
Removes what homes left that are no more: cut off while they were taken down, or deleted without that.

A home makes its claim of a range first, and gives it up before its fence and its hold of host settings go. So
who has one of these two, and neither a claim nor a slot, is no more, whatever became of its directory.

A home with a claim is no more when its record says where its directory was, that is not there, and nothing of
it runs: no process of a sandbox, no server, no edge. Slots in which nothing runs do not keep it. If the
directory comes back, from a disk that was not mounted, say, its next start claims and makes all that anew.

Everybody else is left alone: a home whose server was killed has its directory, and its sandboxes may live.
One that an older version started has no record, and nobody can tell.
"""

import contextlib
import re
import shutil
from ipaddress import IPv4Network
from pathlib import Path

import structlog

from atoll.server.domain.errors import AtollError
from atoll.server.host import cgroup, mounts, netns
from atoll.server.host.netlink import Netlink, Network
from atoll.server.host.nftables import Nftables
from atoll.server.network import fence, making, ranges
from atoll.server.network.home_records import HomeRecord, HomeRecords
from atoll.server.network.host_settings import Change, HostSettings, holders
from atoll.server.network.kernel_errors import translated
from atoll.server.network.life import life_of
from atoll.server.network.names import Names, is_home_id

log = structlog.get_logger(__name__)

_TABLE = re.compile(r"atoll_([0-9a-f]{6})")


def sweep(nftables: Nftables, *, run_dir: Path) -> list[Change]:
    """
    Remove what dead homes have, and put back the host settings that only they held.

    Blocks for milliseconds; for up to a second where many slots go. A failure is logged and left to the next
    sweep: it is not the caller's home.

    Returns:
        the host settings that were put back, or left alone because somebody else changed them.
    """
    changes: list[Change] = []
    try:
        # Under the lock nobody claims: who is dead when looked at stays dead until all is removed.
        with (
            translated("look for what dead homes left"),
            ranges.locked(run_dir),
            Netlink() as netlink,
        ):
            claims, records = ranges.claims(netlink), HomeRecords(run_dir).read_all()
            for home_id in sorted(_suspects(nftables, run_dir) | set(records) | set(claims)):
                if not is_home_id(home_id):
                    continue
                try:
                    if _is_dead(home_id, records.get(home_id), claims.get(home_id, []), netlink):
                        log.info("a dead home is cleaned up after", home_id=home_id)
                        changes += give_up_locked(home_id, netlink, nftables, run_dir=run_dir)
                except AtollError as error:
                    log.warning("what a dead home left stays for now", home_id=home_id, error=str(error))
    except AtollError as error:
        log.warning("what dead homes left stays for now", error=str(error))
    return changes


def give_up(home_id: str, *, run_dir: Path) -> tuple[Change, ...]:
    """
    Remove all that a home has on this machine, of which nothing may run; see ``give_up_locked``.

    Raises:
        UnavailableError: the kernel refused; calling again may help.
    """
    with translated(f"clean up after home {home_id}"), contextlib.closing(Nftables()) as nftables:
        with ranges.locked(run_dir), Netlink() as netlink:
            changes = give_up_locked(home_id, netlink, nftables, run_dir=run_dir)
        making.unprepare(run_dir)
        return changes


def give_up_locked(
    home_id: str, netlink: Netlink, nftables: Nftables, *, run_dir: Path
) -> tuple[Change, ...]:
    """
    Remove all that a home has on this machine; for who has the lock of the ranges. Nothing of it may run.

    Again, or for a home that never was, does nothing. Cut off at any moment, it goes on with the next sweep.

    Raises:
        UnavailableError: the kernel refused; calling again may help.
    """
    names = Names(home_id)
    record = HomeRecords(run_dir).read(home_id)
    with translated(f"clean up after home {home_id}"):
        making.remove_slots(names)
        if record is not None:
            _remove_mounts(record)
            cgroup.remove_with_children(record.cgroup)
            shutil.rmtree(record.public, ignore_errors=True)
        ranges.release_locked(home_id, netlink, run_dir=run_dir)
        fence.take_down(names, nftables)
        return tuple(HostSettings(home_id, run_dir=run_dir).release())


def claimed_range(claimed: list[Network]) -> IPv4Network | None:
    """Return the range among what a home claims."""
    return next((one for one in claimed if isinstance(one, IPv4Network)), None)


def _suspects(nftables: Nftables, run_dir: Path) -> set[str]:
    tables = [item["table"] for item in nftables.query("list tables inet") if "table" in item]
    fenced = {found[1] for table in tables if (found := _TABLE.fullmatch(str(table["name"])))}
    return fenced | holders(run_dir)


def _is_dead(home_id: str, record: HomeRecord | None, claimed: list[Network], netlink: Netlink) -> bool:
    if record is not None and record.is_gone(home_id):
        with translated(f"look what runs of home {home_id}"):
            life = life_of(record, group=record.cgroup, claimed=claimed_range(claimed))
        if life:
            log.warning(
                "a deleted home runs on; `atoll down --home-id` ends it",
                home_id=home_id,
                directory=str(record.directory),
                runs=str(life),
            )
        return not life
    # Somebody may have flushed the routes of a home that lives: its fence is all the more needed.
    names = Names(home_id)
    return not claimed and all(
        names.number(one) is None for one in (*netns.names(), *netlink.names().values())
    )


def _remove_mounts(record: HomeRecord) -> None:
    try:
        if record.home_there() is not None:
            # Another home is there now, and these mounts are its.
            return
    except (OSError, ValueError):
        return
    for directory in record.mounts:
        for place in reversed(mounts.below(directory)):
            mounts.unmount(place)
