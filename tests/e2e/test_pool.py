"""Warm creates over real gVisor: a released client claims what waits, with every option."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest
from e2b import Sandbox
from e2b import Volume as E2bVolume
from support.home import ATOLL, LiveHome, fresh_home

import atoll

POOL = """
[pool]
templates = "minimal"
least = 2
look_every = 0.5
"""


@pytest.fixture(scope="module")
def warm() -> Iterator[LiveHome]:
    with fresh_home(POOL, pool=True) as home:
        yield home


def pool(home: LiveHome, template: str = "minimal") -> atoll.PoolInfo:
    """Read one pool; of two sizes, the one that waits."""
    found = atoll.Pool.list(api_url=home.exports["ATOLL_API_URL"], api_key=home.exports["ATOLL_API_KEY"])
    return next(one for one in found if one.template == template)


def filled(home: LiveHome) -> atoll.PoolInfo:
    """Return when as many wait as should."""
    limit = time.monotonic() + 60
    while (found := pool(home)).ready < max(found.wanted, 1):
        assert time.monotonic() < limit, found
        time.sleep(0.1)
    return found


def test_a_create_claims_with_every_option(warm: LiveHome, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled(warm)
    options = warm.client_options
    monkeypatch.setenv("E2B_VOLUME_API_URL", options["api_url"])
    volume = E2bVolume.create("warm-data", api_key=options["api_key"], api_url=options["api_url"])
    with Sandbox.create(
        "minimal",
        timeout=120,
        envs={"MINE": "yes"},
        metadata={"who": "me"},
        allow_internet_access=False,
        volume_mounts={"/data": volume},
        **options,
    ) as sandbox:
        assert pool(warm).hits == before.hits + 1
        run = sandbox.commands.run
        assert run("echo $MINE $E2B_SANDBOX_ID").stdout == f"yes {sandbox.sandbox_id}\n"
        assert run("hostname; cat /etc/hostname").stdout == f"{sandbox.sandbox_id}\n" * 2
        assert run("echo kept > /data/file; cat /data/file").stdout == "kept\n"
        assert run("id -un; pwd").stdout == "user\n/home/user\n"
        connect = "import socket; socket.create_connection(('192.0.2.1', 443), 2)"
        assert run(f'python3 -c "{connect}" 2>/dev/null || echo no').stdout == "no\n"
        assert sandbox.get_info().metadata == {"who": "me"}
        sandbox.pause()
        again = Sandbox.connect(sandbox.sandbox_id, **options)
        assert again.commands.run("cat /data/file; echo $MINE").stdout == "kept\nyes\n"


def test_what_is_claimed_is_nobody_elses(warm: LiveHome) -> None:
    filled(warm)
    options = warm.client_options
    made = [Sandbox.create("minimal", timeout=120, **options) for _ in range(4)]
    try:
        ask = "cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1"
        told = [one.commands.run(ask).stdout for one in made]
        assert len({line for text in told for line in text.splitlines()}) == 8
        made[0].files.write("/tmp/mine", "x")
        assert not made[1].files.exists("/tmp/mine")
        token = made[1].connection_config.sandbox_headers["X-Access-Token"]
        headers = {"E2b-Sandbox-Id": made[0].sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": token}
        answer = httpx.get(f"{options['sandbox_url']}/files", params={"path": "/tmp/mine"}, headers=headers)
        assert answer.status_code == 401
    finally:
        for one in made:
            one.kill()


def test_a_killed_server_leaves_nothing_that_waited(warm: LiveHome) -> None:
    filled(warm)
    options = warm.client_options
    kept = Sandbox.create("minimal", timeout=600, **options)
    before = warm.waiting()
    assert before

    os.kill(warm.server_pid(), signal.SIGKILL)
    warm.start()

    filled(warm)
    limit = time.monotonic() + 30
    while before & {path.name for path in (warm.path / "sandboxes").glob("i*")}:
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert Sandbox.connect(kept.sandbox_id, **options).commands.run("echo alive").stdout == "alive\n"
    kept.kill()


def test_the_command_line_shows_it(warm: LiveHome) -> None:
    filled(warm)
    words, env = [ATOLL, "pool"], {**os.environ, **warm.exports}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "minimal" in done.stdout
