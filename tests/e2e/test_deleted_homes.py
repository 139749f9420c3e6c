"""Homes that were deleted without `atoll down` can be ended, and a home without a range can, too."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest
from e2b import Sandbox as E2BSandbox
from support.home import ATOLL, CACHE, LiveHome, free_address, new_directory
from support.leavings import left_of_id

from atoll import Sandbox
from atoll.server.settings.home import open_home

# With namespaces of its own it sees other routes, and another /run, than all that is on this machine.
ALL_TAKEN = """
mount -t tmpfs none /run
ip link set lo up
ip route add blackhole 10.201.0.0/16
"$@"
"""


@pytest.fixture
def doomed() -> Iterator[LiveHome]:
    """A home that is up, with a sandbox; whatever is left of it goes in the end."""
    home = LiveHome(path=new_directory(), listen=free_address())
    home.start()
    home_id = home.id
    try:
        options = {"api_url": home.exports["ATOLL_API_URL"], "api_key": home.exports["ATOLL_API_KEY"]}
        Sandbox.create("minimal", **options).close()
        yield home
    finally:
        if (home.path / "home.json").exists():
            home.down()
        home.atoll("down", "--home-id", home_id, "--force")
        shutil.rmtree(home.path, ignore_errors=True)


def delete(home: LiveHome) -> None:
    """As `rm -rf` does, which fails at what is mounted, and removes all else."""
    subprocess.run(["rm", "-rf", str(home.path)], check=False, capture_output=True)
    assert not (home.path / "home.json").exists()


def where_all_are_taken(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line on a machine that has no range for a home."""
    apart = ["unshare", "--net", "--mount", "sh", "-e", "-c", ALL_TAKEN, "sh", ATOLL]
    variables = {**os.environ, "ATOLL_CACHE_DIR": str(CACHE)}
    return subprocess.run([*apart, *words], capture_output=True, text=True, timeout=600, env=variables)


def homes_in_doctor(home: LiveHome, home_id: str) -> list[dict[str, str]]:
    checks = json.loads(home.atoll("doctor", "--home", str(home.path), "--json").stdout)
    return [check for check in checks if check["name"] == "homes" and home_id in check["message"]]


def test_what_runs_of_a_deleted_home_is_named_and_ends_when_told_twice(doomed: LiveHome) -> None:
    home_id = doomed.id
    server, edge = doomed.server_pid(), doomed.edge_pid()
    before = homes_in_doctor(doomed, home_id)
    delete(doomed)

    (named,) = homes_in_doctor(doomed, home_id)
    refused = doomed.atoll("down", "--home-id", home_id)
    still = left_of_id(home_id, doomed.path)
    done = doomed.atoll("down", "--home-id", home_id, "--force")
    again = doomed.atoll("down", "--home-id", home_id, "--force")

    assert before == []
    assert named["status"] == "warn"
    assert f"1 sandbox, the server (process {server}), the edge (process {edge})" in named["message"]
    assert f"atoll down --home-id {home_id} --force" in named["resolution"]
    assert refused.returncode == 1
    assert f"{doomed.path} is gone" in refused.stderr
    assert f"atoll down --home-id {home_id} --force" in refused.stderr
    assert all(still[what] for what in ("processes", "namespaces", "cgroups", "tables", "ranges"))
    assert done.returncode == again.returncode == 0, done.stderr
    # No line of a log, of which a person makes nothing.
    assert done.stderr == f"· ending what is left of home {home_id}\nHome {home_id} is down.\n"
    assert left_of_id(home_id, doomed.path) == {what: [] for what in still}


def test_the_path_of_a_deleted_home_names_it_too(doomed: LiveHome) -> None:
    home_id = doomed.id
    delete(doomed)

    refused = doomed.atoll("down", "--home", str(doomed.path))
    done = doomed.atoll("down", "--home", str(doomed.path), "--force")
    left = left_of_id(home_id, doomed.path)

    assert (refused.returncode, done.returncode) == (1, 0), refused.stderr + done.stderr
    assert left == {what: [] for what in left}


def test_nothing_stays_of_a_home_that_was_deleted_when_nothing_ran(doomed: LiveHome) -> None:
    home_id = doomed.id
    (sandbox_id,) = doomed.settled_running()
    assert E2BSandbox.kill(sandbox_id, **doomed.client_options)
    for pid in (doomed.server_pid(), doomed.edge_pid()):
        os.kill(pid, signal.SIGKILL)
    had = left_of_id(home_id, doomed.path)
    delete(doomed)

    done = doomed.atoll("down", "--home", str(doomed.path))
    left = left_of_id(home_id, doomed.path)

    assert all(had[what] for what in ("namespaces", "links", "tables", "mounts", "ranges"))
    assert done.returncode == 0, done.stderr
    assert left == {what: [] for what in left}


def test_a_home_that_is_there_is_not_ended_as_deleted(home: LiveHome) -> None:
    before = home.server_pid(), home.edge_pid()

    done = home.atoll("down", "--home-id", home.id, "--force")

    assert done.returncode == 1
    assert f"`atoll down --home {home.path}`" in done.stderr
    assert (home.server_pid(), home.edge_pid()) == before
    assert left_of_id(home.id, home.path)["ranges"]


def test_a_home_without_a_range_is_taken_down_where_none_is_free() -> None:
    path = new_directory()
    try:
        open_home(path)
        up = where_all_are_taken("up", "--home", str(path), "--listen", free_address(), "--detach")
        down = where_all_are_taken("down", "--home", str(path))
    finally:
        shutil.rmtree(path)

    assert up.returncode == 1
    assert "no free /20 in 10.201.0.0/16" in up.stderr
    assert "`atoll down --home-id ID`" in up.stderr
    assert down.returncode == 0, down.stderr
    assert "Atoll is down." in down.stderr
