"""Control groups of both versions, on trees of plain files."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.server.host import cgroup, cgroup_v1, cgroup_v2
from atoll.server.host.cgroup_base import CgroupError, kill_member
from atoll.server.host.cgroup_v1 import CgroupV1
from atoll.server.host.cgroup_v2 import CgroupV2, take_back

GROUP = "/atoll-000000/ix"


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A machine with version 1; a new directory gets the kernel's files only where the test puts them."""
    for controller in ("memory", "cpu", "cpuacct", "pids", "freezer", "cpuset", "blkio"):
        (tmp_path / controller).mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-3\n")
    (tmp_path / "cpuset" / "cpuset.mems").write_text("0\n")
    fill(tmp_path / "cpuset/atoll-000000", {"cpuset.cpus": "\n", "cpuset.mems": "\n"})
    fill(tmp_path / f"cpuset{GROUP}", {"cpuset.cpus": "\n", "cpuset.mems": "\n"})
    fill(
        tmp_path / f"memory{GROUP}",
        {
            "memory.limit_in_bytes": "max",
            "memory.memsw.limit_in_bytes": "1000",
            "memory.swappiness": "60",
            "memory.usage_in_bytes": "500\n",
            "memory.stat": "cache 400\nrss 100\nshmem 30\nhierarchical_memory_limit 5\n",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        },
    )
    fill(tmp_path / f"pids{GROUP}", {"pids.max": "max", "pids.events": "max 7\n"})
    fill(tmp_path / f"cpu{GROUP}", {"cpu.cfs_period_us": "", "cpu.cfs_quota_us": "-1"})
    fill(tmp_path / f"cpuacct{GROUP}", {"cpuacct.usage": "1500000000\n"})
    return tmp_path


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A machine with version 2."""
    controllers = {"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": ""}
    fill(tmp_path, {**controllers, "cgroup.procs": ""})
    fill(tmp_path / "atoll-000000", controllers)
    fill(
        tmp_path / GROUP.lstrip("/"),
        {
            "memory.max": "max",
            "memory.high": "max",
            "memory.swap.max": "max",
            "memory.oom.group": "0",
            "memory.current": "500\n",
            "memory.stat": "anon 100\nfile 400\nshmem 30\n",
            "memory.events": "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 1\n",
            "pids.max": "max",
            "pids.events": "max 7\n",
            "cpu.max": "max 100000\n",
            "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
            "cgroup.procs": "",
            "cgroup.kill": "",
        },
    )
    return tmp_path


def fill(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(content)


def test_the_version_is_told_by_what_is_mounted(tmp_path: Path, v1: Path) -> None:
    assert cgroup.version(v1) == 1
    (v1 / "unified").mkdir()
    (v1 / "unified" / "cgroup.controllers").write_text("")
    assert cgroup.version(v1) == 1, "an empty v2 beside v1 does not count"
    assert isinstance(cgroup.open_cgroup(GROUP, v1), CgroupV1)
    with pytest.raises(CgroupError, match="no control groups"):
        cgroup.version(tmp_path / "none")


def test_version_2_is_told_by_its_controllers(v2: Path) -> None:
    assert cgroup.version(v2) == 2
    assert isinstance(cgroup.open_cgroup(GROUP, v2), CgroupV2)


def test_v1_sets_the_first_limits_and_a_processor_set_that_can_be_joined(v1: Path) -> None:
    CgroupV1(GROUP, v1).create(memory_bytes=4096, processes=99)

    assert (v1 / f"memory{GROUP}/memory.limit_in_bytes").read_text().startswith("4096")
    assert (v1 / f"pids{GROUP}/pids.max").read_text().startswith("99")
    assert (v1 / f"cpuset{GROUP}/cpuset.cpus").read_text() == "0-3"
    assert (v1 / f"cpuset{GROUP}/cpuset.mems").read_text().startswith("0")


def test_v1_counts_what_programs_hold_without_the_cache(v1: Path) -> None:
    group = CgroupV1(GROUP, v1)

    assert group.memory_resident() == 130
    assert group.memory_total() == 500
    assert group.out_of_memory_kills() == 2
    assert group.refused_processes() == 7
    assert group.cpu_seconds() == 1.5


@pytest.mark.parametrize(("cores", "quota"), [(0.5, "50000"), (2, "200000"), (0.001, "1000")])
def test_v1_gives_processor_time_as_a_quota(v1: Path, cores: float, quota: str) -> None:
    CgroupV1(GROUP, v1).set_cpus(cores)

    assert (v1 / f"cpu{GROUP}/cpu.cfs_quota_us").read_text() == quota
    assert (v1 / f"cpu{GROUP}/cpu.cfs_period_us").read_text() == "100000"


def test_v1_lets_idle_time_be_used_later_where_the_kernel_can(v1: Path) -> None:
    burst = v1 / f"cpu{GROUP}/cpu.cfs_burst_us"
    burst.write_text("0")

    CgroupV1(GROUP, v1).set_cpus(0.5)

    assert burst.read_text() == "50000"


def test_v1_lists_directories_of_all_hierarchies_since_runsc_joins_all(v1: Path) -> None:
    names = {path.relative_to(v1).parts[0] for path in CgroupV1(GROUP, v1).directories()}

    assert "blkio" in names


async def test_removing_takes_every_directory_and_what_is_below(v1: Path) -> None:
    group = CgroupV1("/atoll-000000/iy", v1)
    (v1 / "blkio/atoll-000000/iy/below").mkdir(parents=True)
    (v1 / "memory/atoll-000000/iy").mkdir()
    assert group.exists()
    assert cgroup.children("/atoll-000000", v1) == {"ix", "iy"}

    await group.remove(timeout_s=1)
    await group.remove(timeout_s=1)

    assert not group.exists()


async def test_a_group_that_stays_busy_is_an_error(v1: Path) -> None:
    (v1 / "blkio/atoll-000000/iy").mkdir(parents=True)
    (v1 / "blkio/atoll-000000/iy/file").write_text("a plain file cannot go by rmdir, as a busy group cannot")

    with pytest.raises(CgroupError, match="rmdir"):
        await CgroupV1("/atoll-000000/iy", v1).remove(timeout_s=0.05)


def test_the_parent_goes_when_it_is_empty(v1: Path) -> None:
    (v1 / "blkio/atoll-000000").mkdir()

    cgroup.remove_empty("/atoll-000000", v1)

    assert not (v1 / "blkio/atoll-000000").exists()
    assert (v1 / f"memory{GROUP}").exists()


def test_a_group_that_is_not_there_says_so(v1: Path) -> None:
    group = CgroupV1("/atoll-000000/none", v1)

    assert group.pids() == []
    assert not group.exists()
    for read in (group.memory_resident, group.memory_total, group.out_of_memory_kills, group.cpu_seconds):
        with pytest.raises(CgroupError, match="No such file"):
            read()


def test_v1_asks_the_next_hierarchy_only_where_one_has_no_process(
    v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def found(file: Path) -> list[int]:
        asked.append(file.relative_to(v1).parts[0])
        return [11] if asked[-1] == "cpuset" else []

    monkeypatch.setattr(cgroup_v1, "read_pids", found)

    assert CgroupV1(GROUP, v1).some_pids() == [11]
    assert asked == ["blkio", "cpu", "cpuacct", "cpuset"]


async def test_v1_is_not_dead_while_the_last_hierarchy_has_a_process(v1: Path) -> None:
    fill(v1 / f"pids{GROUP}", {"cgroup.procs": f"{os.getpid()}\n"})

    with pytest.raises(CgroupError, match="outlive"):
        await CgroupV1(GROUP, v1).kill(timeout_s=0.05)


def test_v2_hands_controllers_down_level_by_level(v2: Path) -> None:
    CgroupV2(GROUP, v2).create(memory_bytes=4096, processes=99)

    # A plain file keeps the last of what was written, the kernel adds them up.
    assert (v2 / "cgroup.subtree_control").read_text().startswith("+")
    assert (v2 / "atoll-000000/cgroup.subtree_control").read_text().startswith("+")
    leaf = v2 / GROUP.lstrip("/")
    assert (leaf / "memory.max").read_text() == "4096"
    assert (leaf / "memory.swap.max").read_text().startswith("0")
    assert (leaf / "memory.oom.group").read_text() == "1"
    assert (leaf / "pids.max").read_text().startswith("99")


def test_v2_without_a_needed_controller_says_which(v2: Path) -> None:
    (v2 / "cgroup.controllers").write_text("cpu pids\n")

    with pytest.raises(CgroupError, match="memory"):
        CgroupV2(GROUP, v2).create(memory_bytes=1, processes=1)


def test_v2_moves_the_processes_at_the_top_of_a_container_out_of_the_way(
    v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses to hand controllers down from where processes are; the real top is exempt."""
    (v2 / "cgroup.procs").write_text("11\n12\n")
    moved: list[tuple[str, str]] = []
    plain = cgroup_v2.write_text

    def write(file: Path, value: str) -> None:
        if file == v2 / "cgroup.subtree_control" and not moved:
            raise CgroupError("Device or resource busy")
        if file.name == "cgroup.procs":
            moved.append((file.parent.name, value))
        else:
            plain(file, value)

    monkeypatch.setattr(cgroup_v2, "write_text", write)

    CgroupV2(GROUP, v2).create(memory_bytes=4096, processes=99)

    assert moved == [("atoll-others", "11"), ("atoll-others", "12")]


def test_v2_puts_them_back_when_no_group_of_ours_is_left(v2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Path, str]] = []
    monkeypatch.setattr(cgroup_v2, "write_text", lambda file, value: written.append((file, value)))
    (v2 / "atoll-others").mkdir()
    (v2 / "cgroup.subtree_control").write_text("cpu memory\n")

    take_back(v2)
    assert written == [], "a home's groups are still there"

    for path in sorted((v2 / "atoll-000000").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (v2 / "atoll-000000").rmdir()
    monkeypatch.setattr(cgroup_v2, "read_pids", lambda file: [11])
    take_back(v2)

    assert written == [(v2 / "cgroup.subtree_control", "-cpu -memory"), (v2 / "cgroup.procs", "11")]
    assert not (v2 / "atoll-others").exists()


def test_v2_counts_what_programs_hold_without_the_cache(v2: Path) -> None:
    group = CgroupV2(GROUP, v2)

    assert group.memory_resident() == 130
    assert group.memory_total() == 500
    assert group.out_of_memory_kills() == 4
    assert group.refused_processes() == 7
    assert group.cpu_seconds() == 1.5


def test_v2_gives_processor_time_and_kills_in_one_write(v2: Path) -> None:
    group = CgroupV2(GROUP, v2)

    group.set_cpus(1.5)
    group.kill_once()

    leaf = v2 / GROUP.lstrip("/")
    assert (leaf / "cpu.max").read_text().startswith("150000 100000")
    assert (leaf / "cgroup.kill").read_text() == "1"


def test_v2_lets_idle_time_be_used_later_where_the_kernel_can(v2: Path) -> None:
    burst = v2 / GROUP.lstrip("/") / "cpu.max.burst"
    burst.write_text("0")

    CgroupV2(GROUP, v2).set_cpus(1.5)

    assert burst.read_text() == "150000"


def test_only_a_member_is_killed() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        kill_member(process.pid, lambda _: False)
        assert process.poll() is None

        kill_member(process.pid, lambda pid: pid == process.pid)

        assert process.wait(5) == -9
    finally:
        process.kill()
        process.wait()


def test_killing_what_is_gone_does_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()

    kill_member(process.pid, lambda _: True)


async def test_a_group_that_does_not_die_is_an_error(v2: Path) -> None:
    (v2 / GROUP.lstrip("/") / "cgroup.procs").write_text(f"{os.getpid()}\n")

    with pytest.raises(CgroupError, match="outlive"):
        await CgroupV2(GROUP, v2).kill(timeout_s=0.05)


@pytest.mark.parametrize("version", [CgroupV1, CgroupV2])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
async def test_a_group_whose_processes_cannot_be_read_is_not_taken_for_an_empty_one(
    version: type[CgroupV1 | CgroupV2], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory").mkdir()
    group = version(GROUP, tmp_path)
    monkeypatch.setattr(os, "open", failing(code))

    with pytest.raises(CgroupError, match=r"cgroup\.procs"):
        group.pids()
    with pytest.raises(CgroupError):
        await group.kill(timeout_s=1)


@pytest.mark.parametrize("version", [CgroupV1, CgroupV2])
@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV])
def test_a_group_that_is_going_has_no_processes(
    version: type[CgroupV1 | CgroupV2], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(os, "open", failing(code))

    assert version(GROUP, tmp_path).pids() == []


def failing(code: int) -> Callable[..., int]:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    return refuse
