"""The OCI description of a sandbox."""

from pathlib import Path
from typing import Any

import pytest

from atoll.server.runtimes.gvisor.options import MIB, GVisorOptions
from atoll.server.runtimes.gvisor.spec import GUESTD, BundleSpec, bundle, shm_bytes


def described(memory_bytes: int = 512 * MIB, **changes: Any) -> dict[str, Any]:
    options = GVisorOptions(**changes)
    spec = BundleSpec(
        rootfs=Path("/templates/t/rootfs"),
        guestd=Path("/usr/bin/atoll-guestd"),
        hostname="h",
        netns="/run/netns/n",
        cgroup="/atoll-000000/i",
        shm_bytes=shm_bytes(memory_bytes, options),
        volumes=Path("/home/mounts/i"),
    )
    return bundle(spec, options)


def mounts(description: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in description["mounts"]}


def test_guestd_is_the_first_process_and_read_only() -> None:
    description = described()

    assert description["process"]["args"] == [GUESTD]
    assert "ro" in mounts(description)[GUESTD]["options"]
    assert mounts(description)[GUESTD]["source"] == "/usr/bin/atoll-guestd"


def test_what_is_mounted_later_for_its_volumes_appears_inside() -> None:
    volumes = mounts(described())["/.atoll/volumes"]

    assert volumes["source"] == "/home/mounts/i"
    assert {"rbind", "rslave", "nosuid", "nodev"} <= set(volumes["options"])


def test_the_network_namespace_is_the_slots_and_all_others_are_new() -> None:
    namespaces = {each["type"]: each.get("path") for each in described()["linux"]["namespaces"]}

    assert namespaces == {"pid": None, "mount": None, "ipc": None, "uts": None, "network": "/run/netns/n"}


@pytest.mark.parametrize(
    ("memory_bytes", "expected"), [(512 * MIB, 64 * MIB), (128 * MIB, 64 * MIB), (64 * MIB, 32 * MIB)]
)
def test_shared_memory_is_bounded_by_half_of_the_memory(memory_bytes: int, expected: int) -> None:
    assert f"size={expected}" in mounts(described(memory_bytes))["/dev/shm"]["options"]


def test_sudo_may_raise_privileges() -> None:
    process = described()["process"]

    assert process["noNewPrivileges"] is False
    assert {"CAP_SETUID", "CAP_SETGID"} <= set(process["capabilities"]["bounding"])


def test_no_host_directory_but_guestd_and_the_one_for_volumes_is_inside() -> None:
    bound = [mount for mount in described()["mounts"] if mount["type"] == "bind"]

    assert [mount["destination"] for mount in bound] == [GUESTD, "/.atoll/volumes"]


def test_the_soft_limit_of_open_files_is_never_above_the_hard_one() -> None:
    limits = {each["type"]: each for each in described(open_files=512)["process"]["rlimits"]}

    assert (limits["RLIMIT_NOFILE"]["soft"], limits["RLIMIT_NOFILE"]["hard"]) == (512, 512)
