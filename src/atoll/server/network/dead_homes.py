"""
Removes what homes left that were cut off while they were taken down.

A home makes its claim of a range first, and gives it up before its fence and its hold of host settings go. So
who has one of these two, and neither a claim nor a slot, is no more, whatever became of its directory.
Everybody else is left alone: a home whose server was killed has a claim, and its sandboxes may live.
"""

import re
from pathlib import Path

import structlog

from atoll.server.domain.errors import AtollError
from atoll.server.host import netns
from atoll.server.host.netlink import Netlink
from atoll.server.host.nftables import Nftables
from atoll.server.network import fence, ranges
from atoll.server.network.host_settings import Change, HostSettings, holders
from atoll.server.network.kernel_errors import translated
from atoll.server.network.names import Names

log = structlog.get_logger(__name__)

_TABLE = re.compile(r"atoll_([0-9a-f]{6})")


def sweep(nftables: Nftables, *, run_dir: Path) -> list[Change]:
    """
    Remove fences of dead homes, and put back the host settings that only they held.

    Blocks for milliseconds. A failure is logged and left to the next sweep: it is not the caller's home.

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
            for home_id in sorted(_suspects(nftables, run_dir)):
                if _is_dead(home_id, netlink):
                    log.info("a dead home is cleaned up after", home_id=home_id)
                    fence.take_down(Names(home_id), nftables)
                    changes += HostSettings(home_id, run_dir=run_dir).release()
    except AtollError as error:
        log.warning("what dead homes left stays for now", error=str(error))
    return changes


def _suspects(nftables: Nftables, run_dir: Path) -> set[str]:
    tables = [item["table"] for item in nftables.query("list tables inet") if "table" in item]
    fenced = {found[1] for table in tables if (found := _TABLE.fullmatch(str(table["name"])))}
    return fenced | holders(run_dir)


def _is_dead(home_id: str, netlink: Netlink) -> bool:
    if ranges.is_claimed(home_id, netlink):
        return False
    # Somebody may have flushed the routes of a home that lives: its fence is all the more needed.
    names = Names(home_id)
    return all(names.number(one) is None for one in (*netns.names(), *netlink.names().values()))
