"""Finding a machine's processes once it has come up."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from atoll.server.domain.ids import SandboxId
from atoll.server.host.cgroup_base import Cgroup, CgroupError
from atoll.server.runtimes.gvisor.places import Directory
from atoll.server.runtimes.gvisor.record import Record
from atoll.server.runtimes.gvisor.running import hold


class UnreadableCgroup:
    """One whose processes cannot be listed."""

    def some_pids(self) -> list[int]:
        raise CgroupError("read cgroup.procs: Too many open files")


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_group_that_cannot_be_read_leaves_no_descriptor(tmp_path: Path) -> None:
    sentry_pid = tmp_path / "sentry.pid"
    sentry_pid.write_text(str(os.getpid()))
    directory = cast("Directory", SimpleNamespace(sentry_pid=sentry_pid, panic_log=tmp_path / "none"))
    record = Record(
        sandbox_id=SandboxId("i" + "a" * 20), boot_id="b", runsc="runsc", memory_bytes=1, address="10.0.0.2"
    )
    before = descriptors()

    with pytest.raises(CgroupError):
        hold(record, directory, cast("Cgroup", UnreadableCgroup()))

    assert descriptors() == before
