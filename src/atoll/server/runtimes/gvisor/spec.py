"""
The OCI description of a sandbox: config.json of its bundle.

Pure: what goes in is values, what comes out is JSON; nothing is read or made here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.server.domain.volume import VOLUMES
from atoll.server.runtimes.gvisor.options import GVisorOptions

GUESTD = "/.atoll/guestd"

# All that root of a cloud machine has, as far as gVisor knows it. It bounds nothing on the host:
# the sentry answers for these, and has none of them there.
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
        "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
        "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE",
        "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG",
        "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE",
        "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
    )
)  # fmt: skip

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class BundleSpec:
    """
    What the description is made from.

    Attributes:
        rootfs: the template's files; a layer in the sandbox's own directory lies above them.
        guestd: the program on the host, seen inside at /.atoll/guestd, read-only.
        netns: the path of the slot's network namespace.
        cgroup: the control group's path; it exists, and its memory limit is what the sandbox shows as its
            memory.
        shm_bytes: size of /dev/shm.
        volumes: the directory of the host below which its volumes are mounted, now or later.
    """

    rootfs: Path
    guestd: Path
    hostname: str
    netns: str
    cgroup: str
    shm_bytes: int
    volumes: Path


def bundle(spec: BundleSpec, options: GVisorOptions) -> dict[str, Any]:
    """Describe a sandbox, as JSON."""
    return {
        "ociVersion": "1.1.0",
        "process": _process(options),
        "root": {"path": str(spec.rootfs), "readonly": False},
        "hostname": spec.hostname,
        "mounts": _mounts(spec),
        "linux": {
            "cgroupsPath": spec.cgroup,
            "namespaces": [
                {"type": "pid"},
                {"type": "mount"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "network", "path": spec.netns},
            ],
        },
    }


def _process(options: GVisorOptions) -> dict[str, Any]:
    limits = {
        # The soft limit is what programs that call select() can take; those that need more raise it.
        "RLIMIT_NOFILE": (min(1024, options.open_files), options.open_files),
        "RLIMIT_CORE": (0, 2**63 - 1),
    }
    return {
        "user": {"uid": 0, "gid": 0},
        "args": [GUESTD],
        "env": [f"PATH={_PATH}", "HOME=/root"],
        "cwd": "/",
        "capabilities": {
            kind: list(CAPABILITIES) for kind in ("bounding", "effective", "inheritable", "permitted")
        },
        "rlimits": [{"type": name, "soft": soft, "hard": hard} for name, (soft, hard) in limits.items()],
        # No no_new_privs: sudo inside has to work.
        "noNewPrivileges": False,
    }


def shm_bytes(memory_bytes: int, options: GVisorOptions) -> int:
    """Return the size that /dev/shm gets at a cold start."""
    return min(options.shm_bytes, memory_bytes // 2)


def _mounts(spec: BundleSpec) -> list[dict[str, Any]]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev"]},
        # gVisor's own devices. Its size cannot be set; what is written there counts as memory.
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",  # noqa: S108  inside the sandbox
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "nodev", "mode=1777", f"size={spec.shm_bytes}"],
        },
        # Version 2, by a flag of the runtime's; guestd keeps commands and their limits in it.
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev"],
        },
        # runsc covers an empty /tmp with a tmpfs, unless the description mounts something there; and it skips
        # mounts of types that it does not know. So /tmp stays on the root disk, as on a cloud machine.
        {"destination": "/tmp", "type": "root-disk", "source": "none"},  # noqa: S108  inside the sandbox
        {
            "destination": GUESTD,
            "type": "bind",
            "source": str(spec.guestd),
            "options": ["bind", "ro", "nosuid", "nodev"],
        },
        # What the host mounts below it later appears inside, too. With what is mounted there already, or the
        # kernel refuses: who is in a user namespace must not uncover what lies under a mount.
        {
            "destination": VOLUMES,
            "type": "bind",
            "source": str(spec.volumes),
            "options": ["rbind", "rw", "rslave", "nosuid", "nodev"],
        },
    ]
