"""Host settings are changed once, and put back by the last home that lets go."""

import json
from pathlib import Path

import pytest

from atoll.server.domain.errors import InternalError, UnavailableError
from atoll.server.host import sysctl
from atoll.server.network.host_settings import FILE_NAME, HostSettings, Setting, needed
from atoll.server.network.uplink import HostNetwork

FORWARD = Setting(name="net/ipv4/ip_forward", value="1")
MAPS = Setting(name="vm/max_map_count", value="1048576", at_least=True)


class Host:
    """A tree like /proc/sys, and homes on it."""

    def __init__(self, tmp_path: Path) -> None:
        self.run_dir = tmp_path / "run"
        self.root = tmp_path / "sys"
        for name, value in (("net/ipv4/ip_forward", "0"), ("vm/max_map_count", "65530")):
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value + "\n")

    def home(self, home_id: str) -> HostSettings:
        return HostSettings(home_id, run_dir=self.run_dir, root=self.root)

    def read(self, setting: Setting) -> str:
        return (self.root / setting.name).read_text().strip()

    def set(self, setting: Setting, value: str) -> None:
        (self.root / setting.name).write_text(value)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_change_is_told_and_put_back(host: Host) -> None:
    changes = host.home("aaaaaa").hold([FORWARD, MAPS])
    while_held = (host.read(FORWARD), host.read(MAPS))
    back = host.home("aaaaaa").release()

    assert [str(change) for change in changes] == [
        "net.ipv4.ip_forward = 1 (was 0)",
        "vm.max_map_count = 1048576 (was 65530)",
    ]
    assert while_held == ("1", "1048576")
    assert (host.read(FORWARD), host.read(MAPS)) == ("0", "65530")
    assert len(back) == 2
    assert not (host.run_dir / FILE_NAME).exists()


def test_the_last_home_puts_it_back_not_the_first(host: Host) -> None:
    host.home("aaaaaa").hold([FORWARD])
    second = host.home("bbbbbb").hold([FORWARD])
    first_back = host.home("aaaaaa").release()
    between = host.read(FORWARD)
    host.home("bbbbbb").release()

    assert second == []
    assert first_back == []
    assert between == "1"
    assert host.read(FORWARD) == "0"


def test_holding_twice_is_letting_go_once(host: Host) -> None:
    host.home("aaaaaa").hold([FORWARD])
    host.home("aaaaaa").hold([FORWARD])
    host.home("aaaaaa").release()

    assert host.read(FORWARD) == "0"


def test_what_suits_already_is_left_alone(host: Host) -> None:
    host.set(MAPS, "2000000")

    assert host.home("aaaaaa").hold([MAPS]) == []
    assert host.home("aaaaaa").release() == []
    assert host.read(MAPS) == "2000000"


def test_what_somebody_changed_meanwhile_stays(host: Host) -> None:
    host.home("aaaaaa").hold([MAPS])
    host.set(MAPS, "262144")
    (change,) = host.home("aaaaaa").release()

    assert host.read(MAPS) == "262144"
    assert "somebody changed it" in str(change)


def test_a_server_killed_between_writing_down_and_changing_loses_nothing(host: Host) -> None:
    host.home("aaaaaa").hold([FORWARD])
    # As if it had been killed before the change.
    host.set(FORWARD, "0")

    assert host.home("aaaaaa").release() == []
    assert host.read(FORWARD) == "0"


def test_a_server_killed_before_its_record_was_removed_changes_nothing_again(host: Host) -> None:
    host.home("aaaaaa").hold([FORWARD])
    kept = (host.run_dir / FILE_NAME).read_text()
    host.home("aaaaaa").release()
    (host.run_dir / FILE_NAME).write_text(kept)

    assert host.home("aaaaaa").release() == []


def test_the_original_is_on_disk_before_the_change(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def write(name: str, value: str, root: Path) -> None:
        seen.append(json.loads((host.run_dir / FILE_NAME).read_text())[name]["original"])
        raise sysctl.SysctlError("no")

    monkeypatch.setattr(sysctl, "write", write)
    with pytest.raises(UnavailableError):
        host.home("aaaaaa").hold([FORWARD])

    assert seen == ["0"]


def test_a_setting_that_only_some_kernels_have_may_be_missing(host: Host) -> None:
    missing = Setting(name="net/ipv6/conf/all/forwarding", value="1", optional=True)

    assert host.home("aaaaaa").hold([missing]) == []


def test_a_setting_that_must_be_there_is_missed(host: Host) -> None:
    with pytest.raises(UnavailableError, match="net/ipv4/nothing"):
        host.home("aaaaaa").hold([Setting(name="net/ipv4/nothing", value="1")])


def test_a_damaged_record_is_named_and_kept(host: Host) -> None:
    host.home("aaaaaa").hold([FORWARD])
    (host.run_dir / FILE_NAME).write_text("[]")

    with pytest.raises(InternalError, match=FILE_NAME):
        host.home("aaaaaa").release()


def test_routers_are_listened_to_before_forwarding_begins() -> None:
    settings = needed(HostNetwork(mtu=1500, uplinks6=("eth0.100",), on_link=()))

    assert [setting.name for setting in settings][-2:] == [
        "net/ipv6/conf/eth0.100/accept_ra",
        "net/ipv6/conf/all/forwarding",
    ]


@pytest.mark.parametrize(("current", "suits"), [("0", True), ("1", False), ("2", True)])
def test_a_host_that_never_listened_to_routers_is_not_made_to(current: str, suits: bool) -> None:
    (setting,) = (
        setting
        for setting in needed(HostNetwork(mtu=1500, uplinks6=("eth0",), on_link=()))
        if setting.name.endswith("accept_ra")
    )

    assert setting.suits(current) is suits


def test_without_ipv6_on_the_host_its_forwarding_is_left_alone() -> None:
    names = [setting.name for setting in needed(HostNetwork(mtu=1500, uplinks6=(), on_link=()))]

    assert names == ["vm/max_map_count", "net/ipv4/ip_forward"]


@pytest.mark.parametrize("name", ["../etc/passwd", "net//x", "/etc/passwd", "net/..", "", "net/a b"])
def test_a_setting_is_below_proc_sys(name: str, tmp_path: Path) -> None:
    with pytest.raises(sysctl.SysctlError):
        sysctl.read(name, tmp_path)
