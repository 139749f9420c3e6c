"""Pools of each size, and start commands that want their sandbox's environment, over real gVisor."""

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import cgroups
from support import home as homes
from support.home import CACHE, LiveHome, fresh_home

from atoll import Pool, PoolInfo, Sandbox
from atoll.server.images.library import TemplateLibrary

SETTINGS = """
[pool]
templates = "minimal"
least = 1
look_every = 0.5
"""
# Counts how often it was started, says what it was told, and serves that.
START = {
    "command": 'echo run >> /tmp/runs; echo "said $GREETING" > /tmp/said; '
    "exec python3 -m http.server 8080 --bind 127.0.0.1 --directory /tmp",
    "ready": ": </dev/tcp/127.0.0.1/8080",
    "timeout_s": 30,
}
WANTS_ENV, AS_IT_IS = "wants-env-000000000000", "as-it-is-000000000000"


def built(name: str) -> Path:
    """Find a template that all tests share, of the recipe as it is now."""
    library = TemplateLibrary(CACHE / "templates")
    return library.folders.path(asyncio.run(library.get(name)).id)


def add_template(cache: Path, origin: Path, name: str, *, needs_env: bool) -> None:
    """Make a template of another one's files, with a start command."""
    made = cache / "templates" / name
    made.mkdir()
    subprocess.run(["cp", "-a", origin / "rootfs", made / "rootfs"], check=True)
    manifest = json.loads((origin / "template.json").read_text())
    changes = {"id": name, "name": name.rpartition("-")[0], "start": {**START, "needs_env": needs_env}}
    (made / "template.json").write_text(json.dumps(manifest | changes))


@pytest.fixture(scope="module")
def home() -> Iterator[LiveHome]:
    """A home with templates of its own beside those that all tests share."""
    with tempfile.TemporaryDirectory(prefix="atoll-cache-") as made, pytest.MonkeyPatch.context() as patch:
        cache = Path(made)
        patch.setattr(homes, "CACHE", cache)
        (cache / "templates").mkdir()
        (cache / "runsc").symlink_to(CACHE / "runsc")
        minimal = built("minimal")
        # It is there, and not used: gVisor takes no files that are behind a link.
        (cache / "templates" / built("base").name).symlink_to(built("base"))
        subprocess.run(["cp", "-a", minimal, cache / "templates"], check=True)
        add_template(cache, minimal, WANTS_ENV, needs_env=True)
        add_template(cache, minimal, AS_IT_IS, needs_env=False)
        with fresh_home(SETTINGS, pool=True) as live:
            yield live


@pytest.fixture(scope="module")
def options(home: LiveHome) -> dict[str, Any]:
    return home.options


def filled(options: dict[str, Any], template: str, memory_mb: int | None = None) -> PoolInfo:
    """Return the pool of a kind when one waits in it."""
    limit = time.monotonic() + 90
    while True:
        found = [
            one
            for one in Pool.list(**options)
            if one.template == template and memory_mb in (None, one.limits.memory_bytes >> 20)
        ]
        if found and found[0].ready:
            return found[0]
        assert time.monotonic() < limit, found
        time.sleep(0.1)


def hits(options: dict[str, Any], template: str, memory_mb: int | None = None) -> int:
    return next(
        one.hits
        for one in Pool.list(**options)
        if one.template == template and memory_mb in (None, one.limits.memory_bytes >> 20)
    )


def words(sandbox: Sandbox, command: str) -> list[str]:
    return sandbox.commands.run(command, timeout=30).stdout.split()


def cores(home: LiveHome, sandbox: Sandbox) -> float:
    """Read what the host grants a sandbox, on either version of control groups."""
    for group in cgroups.of_home(home.id):
        if (limit := group / sandbox.id / "cpu.max").exists():
            quota, period = limit.read_text().split()
            return int(quota) / int(period)
        if (limit := group / sandbox.id / "cpu.cfs_quota_us").exists():
            return int(limit.read_text()) / int(limit.with_name("cpu.cfs_period_us").read_text())
    raise AssertionError(f"{sandbox.id} has no group")


def test_another_size_has_a_pool_of_its_own_from_its_first_create_on(
    home: LiveHome, options: dict[str, Any]
) -> None:
    usual = filled(options, "minimal", 512)
    memory = "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo"
    with Sandbox.create("minimal", timeout=300, memory_mb=768, cpus=1.0, **options) as first:
        assert (words(first, memory), cores(home, first)) == (["768"], 1.0)
    larger = filled(options, "minimal", 768)
    assert (larger.hits, larger.misses, larger.limits.cpus) == (0, 1, 1.0)

    with Sandbox.create("minimal", timeout=300, memory_mb=768, cpus=1.0, **options) as second:
        assert second.id in larger.ids
        assert (words(second, memory), cores(home, second)) == (["768"], 1.0)
        assert hits(options, "minimal", 768) == 1
    assert hits(options, "minimal", 512) == usual.hits


@pytest.mark.parametrize(
    ("template", "env", "said", "runs"),
    [
        (WANTS_ENV, {"GREETING": "hello"}, "hello", 2),
        (WANTS_ENV, {}, "", 1),
        (AS_IT_IS, {"GREETING": "hello"}, "", 1),
    ],
)
def test_a_start_command_runs_again_at_the_claim_only_where_it_wants_the_environment(
    options: dict[str, Any], template: str, env: dict[str, str], said: str, runs: int
) -> None:
    name = template.rpartition("-")[0]
    # The first create of a template has the pool know of it.
    with Sandbox.create(template, timeout=300, **options):
        pass
    before = filled(options, name)

    with Sandbox.create(template, timeout=300, env=env, **options) as sandbox:
        assert sandbox.id in before.ids
        assert hits(options, name) == before.hits + 1
        fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/said').read().decode())"
        # At once: the create returned when it was ready.
        assert words(sandbox, f'python3 -c "{fetch}"') == ["said", *said.split()]
        assert words(sandbox, "cat /tmp/runs") == ["run"] * runs
        # The first one is ended where it ran again.
        assert len(sandbox.commands.list()) == 1
        # What is begun afterwards has it in any case.
        assert words(sandbox, "echo got $GREETING") == ["got", *env.values()]
