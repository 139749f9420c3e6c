"""From the call of create to the first output, nothing warm, beside raw `runsc run` of the same command."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import stats
from e2b import Sandbox
from home import CACHE, Home

SAMPLES = 30
# What the released client makes of commands.run("echo hi").
COMMAND = ["/bin/bash", "-l", "-c", "echo hi"]


def create_to_first_command(home: Home, tool: Path) -> list[stats.Figure]:
    """Sample both in turns; kills are not counted."""
    ours, raw = [], []
    with tempfile.TemporaryDirectory(prefix="atoll-bench-raw-") as directory:
        bundle = raw_bundle(Path(directory))
        for number in range(SAMPLES + 2):
            start = time.perf_counter()
            sandbox = Sandbox.create("minimal", timeout=120, api_key=home.key, api_url=home.url,
                                     sandbox_url=home.url)  # fmt: skip
            output = sandbox.commands.run("echo hi").stdout
            ours.append((time.perf_counter() - start) * 1e3)
            sandbox.kill()
            assert output == "hi\n"
            raw.append(raw_run(bundle, Path(directory), number))
        # runsc leaves one mount behind for each state directory.
        subprocess.run(["umount", f"{directory}/state/null-netns"], check=False)
    ours, raw = ours[2:], raw[2:]
    ratio = stats.median(ours) / stats.median(raw)
    return [
        stats.Figure(
            name="cold create → first command", unit="ms", median=stats.median(ours), p95=stats.p95(ours),
            raw=stats.median(raw), raw_p95=stats.p95(raw), target="≤ 1.4 × raw", score=ratio,
            met=ratio <= 1.4, samples=len(ours),
        )
    ]  # fmt: skip


def raw_bundle(directory: Path) -> Path:
    """Write the smallest bundle that runs the command in the template's files, as its user."""
    (rootfs,) = newest(CACHE / "templates", "minimal-*/rootfs")
    bundle = directory / "bundle"
    bundle.mkdir()
    capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"]
    description = {
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 1000, "gid": 1000}, "args": COMMAND, "cwd": "/home/user",
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/user"],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "root": {"path": str(rootfs)},
        "hostname": "raw",
        "mounts": [
            {"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs"},
            {"destination": "/sys", "type": "sysfs"},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }  # fmt: skip
    (bundle / "config.json").write_text(json.dumps(description))
    return bundle


def raw_run(bundle: Path, directory: Path, number: int) -> float:
    """Run it once, with gVisor's network and an overlay on disk; return milliseconds."""
    (runsc,) = newest(CACHE / "runsc", "*/runsc")
    overlay = directory / f"overlay-{number}"
    overlay.mkdir()
    start = time.perf_counter()
    done = subprocess.run(
        [runsc, f"--root={directory}/state", "--network=sandbox", f"--overlay2=root:dir={overlay}", "run",
         f"--bundle={bundle}", f"raw{number:04}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=60, env={"PATH": os.defpath},
    )  # fmt: skip
    took = (time.perf_counter() - start) * 1e3
    assert done.stdout == b"hi\n"
    shutil.rmtree(overlay)
    return took


def newest(directory: Path, pattern: str) -> list[Path]:
    """Find the newest path that matches, as a list of one."""
    found = sorted(directory.glob(pattern), key=lambda path: path.stat().st_mtime)
    assert found, f"nothing matches {directory}/{pattern}"
    return found[-1:]
