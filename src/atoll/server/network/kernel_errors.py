"""What the kernel refused, told to Atoll: message, facts, what to do."""

import contextlib
from collections.abc import Iterator

from atoll.server.domain.errors import UnavailableError
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.host.locked_file import LockTimeoutError
from atoll.server.host.netlink import NetlinkError
from atoll.server.host.netns import NetnsError
from atoll.server.host.nftables import NftablesError
from atoll.server.host.sysctl import SysctlError


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """
    Run kernel calls; *what* says what for, in the words of a message.

    Raises:
        UnavailableError: one was refused.
    """
    try:
        yield
    except (
        NetlinkError, NetnsError, NftablesError, SysctlError, CgroupError, LockTimeoutError, OSError
    ) as error:  # fmt: skip
        raise UnavailableError(
            f"Could not {what}",
            details=str(error),
            resolution="`atoll doctor` says what this host lacks; Atoll must run as root",
        ) from error
