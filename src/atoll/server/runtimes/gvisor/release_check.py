"""
Checks a runsc by what it does, not by its name: it runs a program in a sandbox that has a network.

Older releases fail right here: on new kernels they refuse --network=sandbox.
"""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import structlog

from atoll.server.host import netns
from atoll.server.host.netlink import Netlink, NetlinkError
from atoll.server.host.runsc import Runsc
from atoll.server.host.threads import finish_in_thread
from atoll.server.runtimes.gvisor.flags import FLAGS
from atoll.server.runtimes.gvisor.steps import ReleaseError

log = structlog.get_logger(__name__)

_TIMEOUT_S = 30.0
# From the range for documentation: nobody is there, and the namespace leads nowhere.
_ADDRESS = ip_interface("192.0.2.1/24")


async def check(program: Path, probe: Path) -> None:
    """
    Run ``probe --version`` in a sandbox of this runsc.

    Raises:
        ReleaseError: it does not do; says why.
        RunscError: it does not run at all.
    """
    if not os.access(program, os.X_OK):
        raise ReleaseError("is not executable")
    name = f"atoll-check-{secrets.token_hex(3)}"
    scratch = Path(tempfile.mkdtemp(prefix="atoll-check-"))
    runsc = Runsc(program, scratch / "state", flags=(*FLAGS, "--ignore-cgroups"))
    namespace = None
    try:
        namespace = await finish_in_thread(_prepare, scratch, probe)
        code, output = await runsc.run_attached(name, bundle=scratch, timeout_s=_TIMEOUT_S)
        if code != 0:
            raise ReleaseError(f"a sandbox with a network does not run: exit code {code}\n{output.strip()}")
        # Many a program ends with 0 whatever it is told.
        if output != (expected := await finish_in_thread(_run_outside, probe)):
            raise ReleaseError(f"a sandbox prints {output!r} where {expected!r} belongs")
    except (OSError, subprocess.SubprocessError, netns.NetnsError, NetlinkError) as error:
        raise ReleaseError(f"a sandbox cannot be tried: {error}") from error
    finally:
        await finish_in_thread(_clean, runsc, scratch, namespace)


def _prepare(scratch: Path, probe: Path) -> int:
    """Write what runsc needs; returns a descriptor of the namespace, which nothing else holds."""
    # runsc's sandbox looks at its root with few rights.
    scratch.chmod(0o755)
    rootfs = scratch / "rootfs"
    for directory in ("proc", "dev"):
        (rootfs / directory).mkdir(parents=True)
    shutil.copy(probe, rootfs / "probe")
    with netns.creating_unnamed() as namespace, Netlink() as links:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            link = links.add_veth(
                "eth0", mac="02:00:00:00:00:01", peer="eth1", peer_mac="02:00:00:00:00:02", peer_index=77,
                peer_netns=own, mtu=1500,
            )  # fmt: skip
        finally:
            os.close(own)
        links.add_address(link, _ADDRESS)
        links.set_up(link)
        # By a descriptor of ours: a name would be left behind by whoever is killed here.
        path = f"/proc/{os.getpid()}/fd/{namespace}"
        (scratch / "config.json").write_text(json.dumps(_description(rootfs, path)))
    return namespace


def _description(rootfs: Path, namespace: str) -> dict[str, Any]:
    return {
        "ociVersion": "1.1.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/probe", "--version"], "env": [], "cwd": "/"},
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": "check",
        "mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/dev", "type": "tmpfs"},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "mount"},
                {"type": "network", "path": namespace},
            ]
        },
    }


def _run_outside(probe: Path) -> str:
    done = subprocess.run(
        [probe, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
    )
    return done.stdout


def _clean(runsc: Runsc, scratch: Path, namespace: int | None) -> None:
    if namespace is not None:
        os.close(namespace)
    try:
        runsc.unmount_shared()
    except OSError as error:
        log.warning("the check leaves something behind", error=str(error))
    shutil.rmtree(scratch, ignore_errors=True)
