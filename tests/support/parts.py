"""The parts of a home that can die, found among the machine's processes."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx
import psutil
from e2b import Sandbox

from support.home import CACHE, LiveHome

# What a sandbox is once nothing is under way with it.
SETTLED = {"running", "paused", "killed", "failed"}


class Part(StrEnum):
    """What is killed."""

    SERVER = "server"
    EDGE = "edge"
    # A command of runsc's that works on a create, a pause, a resume or a snapshot.
    HELPER = "runsc"
    SENTRY = "sentry"
    GOFER = "gofer"
    # The first process inside.
    GUESTD = "guestd"
    # Not killed: what is persistent is written down, and the server ends in order.
    PARK = "park"


@dataclass(frozen=True)
class Victim:
    """A process of runsc's, and whose it is."""

    process: psutil.Process
    sandbox_id: str


def of_runsc(home: LiveHome, part: Part) -> list[Victim]:
    """Find sentries, gofers or commands under way; parents only, since a sentry's stubs look the same."""
    found = {process.pid: (process, _words(process)) for process in home.processes("runsc")}
    alike = {pid: process for pid, (process, words) in found.items() if words and _part(words) is part}
    victims = []
    for process in alike.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() not in alike:
                victims.append(Victim(process, _sandbox(found[process.pid][1])))
    return sorted(victims, key=lambda one: one.process.pid)


def kill_guestd(options: dict[str, str], sandbox_id: str) -> None:
    """Have root inside kill the first process; no answer is the answer."""
    with contextlib.suppress(Exception):
        _handle(options, sandbox_id).commands.run("kill -9 1", user="root", timeout=5, request_timeout=5)


def kill_guestd_outside(home: LiveHome, sandbox_id: str) -> bool:
    """Have gVisor kill the first process, in some 30 ms; False: it was not up, or had ended."""
    runsc = next((CACHE / "runsc").glob("*/runsc"))
    words = [runsc, "--root", home.path / "runsc-state", "kill", sandbox_id, "KILL"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(words, capture_output=True, timeout=5, check=False).returncode == 0
    return False


def run_inside(options: dict[str, str], sandbox_id: str, command: str) -> str:
    """Run a command in a sandbox that runs; never wakes one."""
    return str(_handle(options, sandbox_id).commands.run(command, user="root", timeout=60).stdout)


def kill(pid: int) -> None:
    """End a process as an operator's mistake would."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def api(options: dict[str, str], timeout_s: float = 60) -> httpx.Client:
    """Make a client of our own API that asks once."""
    return httpx.Client(
        base_url=options["api_url"], headers={"X-API-Key": options["api_key"]}, timeout=timeout_s
    )


def wait_for_answers(options: dict[str, str]) -> None:
    """Return once the server answers through the edge, of which either may have been killed last."""
    limit = time.monotonic() + 60
    with api(options) as client:
        while True:
            try:
                client.get("/v1/sandboxes").raise_for_status()
            except httpx.HTTPError:
                assert time.monotonic() < limit, "nothing answers"
                time.sleep(0.1)
            else:
                return


def settled(client: httpx.Client, sandbox_id: str) -> dict[str, Any]:
    """Read a row once nothing is under way with it, and who fell has come back."""
    limit = time.monotonic() + 60
    while True:
        answer = client.get(f"/v1/sandboxes/{sandbox_id}")
        assert answer.status_code == 200, f"the row of {sandbox_id} is lost: {answer.text}"
        row: dict[str, Any] = answer.json()
        falling = row["fall"] is not None and row["fall"]["back_at"] is None and not row["end_reason"]
        if (row["status"] in SETTLED and not falling) or time.monotonic() > limit:
            return row
        time.sleep(0.1)


def _handle(options: dict[str, str], sandbox_id: str) -> Sandbox:
    with api(options) as client:
        row = client.get(f"/v1/sandboxes/{sandbox_id}").raise_for_status().json()
    assert row["status"] == "running", row
    # Not ``connect``, which resumes.
    return Sandbox.connect(sandbox_id, timeout=900, **options)  # type: ignore[arg-type]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _part(words: list[str]) -> Part:
    if "boot" in words:
        return Part.SENTRY
    return Part.GOFER if "gofer" in words else Part.HELPER


def _sandbox(words: list[str]) -> str:
    ids = [word for word in words if len(word) == 21 and word.startswith("i") and word.isalnum()]
    return ids[-1] if ids else ""
