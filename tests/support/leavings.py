"""What a home leaves on the machine."""

import os
import subprocess
from pathlib import Path

import psutil

from atoll.server.network.names import Names
from support import cgroups
from support.home import LiveHome

HOST_SETTINGS = Path("/run/atoll/host-settings.json")


def named(top: Path, word: str) -> list[str]:
    """List what has a word in its name, below a directory; what comes and goes meanwhile is passed over."""
    return [
        f"{folder}/{name}"
        for folder, folders, files in os.walk(top)
        for name in (*folders, *files)
        if word in name
    ]


def left_of(home: LiveHome) -> dict[str, list[str]]:
    """List what of a home is on the machine outside of its directory."""
    return left_of_id(home.id, home.path)


def left_of_id(tag: str, directory: Path) -> dict[str, list[str]]:
    """List it for a home whose directory may be gone."""
    path = str(directory)
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    settings = HOST_SETTINGS.read_text() if HOST_SETTINGS.exists() else ""
    routes = ["ip", "route", "show", "type", "unreachable"]
    unreachable = subprocess.run(routes, capture_output=True, text=True, check=True).stdout
    priority = Names(tag).route_priority
    lines = {
        process.pid: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    }
    return {
        "processes": [line for pid, line in lines.items() if path in line and pid != os.getpid()],
        "namespaces": [p.name for p in Path("/run/netns").glob(f"*{tag}*")]
        if Path("/run/netns").is_dir()
        else [],
        "links": [p.name for p in Path("/sys/class/net").glob(f"at{tag}-*")],
        "cgroups": [str(group) for group in cgroups.of_home(tag)],
        "tables": [line for line in tables.splitlines() if tag in line],
        "mounts": [
            line for line in Path("/proc/self/mounts").read_text().splitlines() if path in line or tag in line
        ],
        "holders": [tag] if tag in settings else [],
        "ranges": [line for line in unreachable.splitlines() if f"metric {priority} " in f"{line} "],
    }
