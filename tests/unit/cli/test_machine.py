"""What ``atoll doctor`` sees of a machine."""

import json
from pathlib import Path

import pytest

from atoll.cli import doctor, machine, main


def only(checks: object) -> machine.Check:
    [check] = checks  # type: ignore[misc]
    return check  # type: ignore[no-any-return]


def test_an_old_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "4.19.0-27-amd64")

    assert only(machine.kernel()).status == "fail"


def test_a_new_kernel_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "6.1.0-40-amd64")

    assert only(machine.kernel()).status == "ok"


@pytest.mark.parametrize(("free", "status"), [(1, "fail"), (10, "warn"), (100, "ok")])
def test_room_on_disk_is_judged(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    usage = type("Usage", (), {"free": free * 1024**3})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    assert only(machine.disk(Path("/no/such/home"))).status == status


def test_a_resolver_is_named(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search x\nnameserver 9.9.9.9\n")

    assert "9.9.9.9" in only(machine.resolver(tmp_path / "resolv.conf")).message
    assert only(machine.resolver(tmp_path / "none")).status == "warn"


def test_a_proxy_before_loopback_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert list(machine.proxies()) == []

    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert only(machine.proxies()).status == "warn"

    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert list(machine.proxies()) == []


def test_without_a_device_kvm_is_no_worry(tmp_path: Path) -> None:
    assert only(machine.kvm(tmp_path / "none")).status == "ok"


@pytest.mark.parametrize(
    ("boot_sector", "kernel", "status", "words"),
    [
        ((None, b""), None, "warn", "a boot sector hangs"),
        ((1, b""), None, "warn", "a boot sector ends with 1"),
        ((1, b"K"), None, "warn", "is not known"),
        ((1, b"K"), (None, b"Linux version"), "warn", "hangs"),
        ((1, b"K"), (0, b"Kernel panic - not syncing: VFS"), "ok", "boots vmlinuz-6"),
    ],
)
def test_kvm_is_believed_when_it_boots_only(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    boot_sector: tuple[int | None, bytes],
    kernel: tuple[int | None, bytes] | None,
    status: str,
    words: str,
) -> None:
    if kernel is not None:
        (tmp_path / "vmlinuz-6").touch()
    monkeypatch.setattr(machine, "_run", lambda command: kernel if "-kernel" in command else boot_sector)

    found = machine._boot("qemu", tmp_path)

    assert found.status == status
    assert words in found.message


def test_one_look_that_fails_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> object:
        from atoll import UnavailableError

        raise UnavailableError("the kernel does not let us look")
        yield

    monkeypatch.setattr(doctor, "_looks", lambda home: [broken, machine.kernel])

    assert main.run(["doctor", "--json"]) == 0
    statuses = [check["status"] for check in json.loads(capfd.readouterr().out)]
    assert statuses == ["warn", "ok"]
