"""
Looks at this machine for ``atoll doctor``: kernel, container, disk, memory, KVM, resolver, proxies.

Changes nothing, and imports no server: what knows of Atoll's own parts is in ``doctor.py``.
"""

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Kernels that gVisor's systrap is tried on; older ones lack what runsc of 2026 asks for.
_OLDEST_KERNEL = (5, 10)
_GIB = 1024**3
# The base template takes 1 GiB, building it as much again, and each sandbox may write some.
_LITTLE_DISK = 5 * _GIB
_ENOUGH_DISK = 20 * _GIB
# The server takes 0.1 GiB, an idle sandbox 0.03; one from `base` may use 1 GiB.
_LITTLE_MEMORY = 1 * _GIB
_ENOUGH_MEMORY = 4 * _GIB
# A boot sector runs at once where KVM works; where it does not, it hangs for ever.
_KVM_TIMEOUT = 20.0
# Capabilities that the server cannot do without, and their bits.
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


@dataclass(frozen=True, kw_only=True)
class Check:
    """
    What was found.

    Attributes:
        name: what was looked at.
        status: "ok", "warn" (works, but) or "fail" (does not work).
        message: what is so.
        resolution: what to do; empty when nothing.
    """

    name: str
    status: str
    message: str
    resolution: str = ""


def ok(name: str, message: str) -> Check:
    """Nothing to do."""
    return Check(name=name, status="ok", message=message)


def warn(name: str, message: str, resolution: str = "") -> Check:
    """It works, but."""
    return Check(name=name, status="warn", message=message, resolution=resolution)


def fail(name: str, message: str, resolution: str) -> Check:
    """It does not work."""
    return Check(name=name, status="fail", message=message, resolution=resolution)


def kernel() -> Iterator[Check]:
    """Look at the kernel's version and the processor."""
    release, machine = platform.release(), platform.machine()
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if platform.system() != "Linux":
        yield fail(
            "kernel", f"this is {platform.system()}", "The server needs Linux; SDK and CLI run anywhere."
        )
    elif version < _OLDEST_KERNEL:
        oldest = ".".join(map(str, _OLDEST_KERNEL))
        yield fail("kernel", f"Linux {release}", f"Upgrade to {oldest} or newer; Debian 12 has 6.1.")
    elif machine not in ("x86_64", "aarch64"):
        yield fail("kernel", f"Linux {release} on {machine}", "gVisor runs on x86_64 and aarch64.")
    else:
        yield ok("kernel", f"Linux {release} on {machine}")


def container() -> Iterator[Check]:
    """Look whether this is a container, and whether it may do what is needed."""
    kind = _container_kind()
    effective = int(_field(Path("/proc/self/status"), "CapEff") or "0", 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    where = f"inside a container ({kind})" if kind else "not inside a container"
    if missing and os.geteuid() == 0:
        yield fail(
            "container",
            f"{where}, without {' and '.join(missing)}",
            "Start it with --privileged, or run Atoll on the host.",
        )
    elif kind:
        yield warn("container", where, "Host settings and firewall rules are those of the container's host.")
    else:
        yield ok("container", where)


def _container_kind() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    for file in (Path("/run/systemd/container"), Path("/proc/1/environ")):
        try:
            content = file.read_bytes()
        except OSError:
            continue
        if file.name == "container":
            return content.decode(errors="replace").strip()
        if found := re.search(rb"(?:^|\0)container=([\w-]+)", content):
            return found[1].decode()
    return None


def disk(home: Path) -> Iterator[Check]:
    """Look at the room where the home is, or will be."""
    place = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / _GIB:.1f} GiB free for {home}"
    if free < _LITTLE_DISK:
        yield fail("disk", text, f"At least {_LITTLE_DISK // _GIB} GiB: free some, or choose another --home.")
    elif free < _ENOUGH_DISK:
        yield warn("disk", text, f"{_ENOUGH_DISK // _GIB} GiB are comfortable.")
    else:
        yield ok("disk", text)


def memory() -> Iterator[Check]:
    """Look at the memory that is free."""
    available = int((_field(Path("/proc/meminfo"), "MemAvailable") or "0").split()[0]) * 1024
    text = f"{available / _GIB:.1f} GiB available"
    if available < _LITTLE_MEMORY:
        yield fail("memory", text, f"At least {_LITTLE_MEMORY // _GIB} GiB.")
    elif available < _ENOUGH_MEMORY:
        yield warn("memory", text, "Enough for a few sandboxes: one from `base` may use 1 GiB.")
    else:
        yield ok("memory", text)


def _field(file: Path, name: str) -> str | None:
    try:
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return None


def resolver(file: Path = Path("/etc/resolv.conf")) -> Iterator[Check]:
    """Look whether this machine resolves names: sandboxes do it through it."""
    try:
        servers = re.findall(r"^nameserver\s+(\S+)", file.read_text(), re.MULTILINE)
    except OSError:
        servers = []
    if servers:
        yield ok("resolver", f"names are resolved by {', '.join(servers)}")
    else:
        yield warn("resolver", f"{file} names no server", "Sandboxes resolve no names until it does.")


def proxies() -> Iterator[Check]:
    """Look for proxies that would stand between clients and this machine."""
    proxy = next((os.environ[name] for name in ("http_proxy", "HTTP_PROXY") if os.environ.get(name)), None)
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if proxy and "127.0.0.1" not in exempt and "127.0.0.0/8" not in exempt:
        yield warn(
            "proxy",
            "HTTP_PROXY is set, and stands before this machine's own addresses too",
            "E2B's clients need: export NO_PROXY=127.0.0.1,localhost (Atoll's own SDK does not).",
        )


# 16-bit code: write "K" to port 0xe9 (qemu's debug console), then 0 to 0xf4 (its exit device), then stop.
_BOOT_SECTOR = bytes.fromhex("bae900 b04b ee baf400 b000 ee f4 ebfd")
# What qemu ends with when 0 is written to its exit device.
_QEMU_DONE = 1


def kvm(device: Path = Path("/dev/kvm")) -> Iterator[Check]:
    """Look whether KVM really runs code: the device alone proves nothing. Only microVMs need it."""
    if not device.exists():
        yield ok("kvm", "no /dev/kvm; not needed: gVisor runs without")
        return
    qemu = shutil.which(f"qemu-system-{platform.machine()}")
    if platform.machine() != "x86_64":
        yield ok("kvm", f"not probed: no probe for {platform.machine()} yet; not needed")
    elif qemu is None:
        yield ok("kvm", "not probed: qemu-system-x86 is not installed; not needed")
    else:
        yield _boot(qemu)


def _boot(qemu: str, boot: Path = Path("/boot")) -> Check:
    kernels = [path for path in sorted(boot.glob("vmlinuz-*")) if os.access(path, os.R_OK)]
    with tempfile.TemporaryDirectory(prefix="atoll-doctor-") as directory:
        sector = Path(directory) / "boot"
        sector.write_bytes(_BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa")
        common = [qemu, "-accel", "kvm", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"]
        small = [*common, "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        code, seen = _run([*small, "-drive", f"file={sector},format=raw,if=ide"])
        if code != _QEMU_DONE or b"K" not in seen:
            what = "hangs" if code is None else f"ends with {code}"
            return warn(
                "kvm", f"/dev/kvm is there, but a boot sector {what} under it", "Not needed by gVisor."
            )
        if not kernels:
            return warn("kvm", "runs a boot sector; whether it boots a kernel is not known: none in /boot")
        # Without a root filesystem it panics, which reboots, which ends qemu: that is far enough.
        words = "console=ttyS0 panic=-1 reboot=t"
        code, seen = _run([*common, "-serial", "stdio", "-kernel", str(kernels[-1]), "-append", words])
        if b"Kernel panic" in seen:
            return ok("kvm", f"boots {kernels[-1].name}")
        what = "hangs" if code is None else f"ends with {code}"
        return warn(
            "kvm", f"a boot sector runs under KVM, but {kernels[-1].name} {what}", "Not needed by gVisor."
        )


def _run(command: list[str]) -> tuple[int | None, bytes]:
    """Run qemu; the code is None when it had to be killed."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_KVM_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        return None, error.stdout or b""
    return done.returncode, done.stdout
