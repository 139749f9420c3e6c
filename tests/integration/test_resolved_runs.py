"""The way by systemd-resolved, with a real resolved and our real edge; nothing of this machine is touched."""

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.home import ATOLL
from support.name_server import ADDRESS
from support.resolved import PATIENCE_S, Resolved, resolved

from atoll.server.edge.authority import make_authority, make_certificate
from atoll.server.main import doors
from atoll.server.main.gvisor_host import program
from atoll.server.main.resolving import link_name
from atoll.server.settings.home import Home, open_home

DOMAIN = "sbx.test"


@dataclass(frozen=True)
class World:
    """A resolved, and a home whose edge answers for a domain beside it."""

    resolver: Resolved
    home: Home

    def dns(self, verb: str) -> subprocess.CompletedProcess[str]:
        return self.resolver.run(str(ATOLL), "dns", verb, "--home", str(self.home.path))

    def query(self, name: str) -> str:
        return self.resolver.run("resolvectl", "query", "--cache=no", name).stdout


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with resolved() as resolver, tempfile.TemporaryDirectory(prefix="atoll-test-") as name:
        yield World(resolver, open_home(Path(name) / "h"))


@contextlib.contextmanager
def edge(world: World) -> Iterator[None]:
    """Run the home's edge, in the namespaces of a resolved."""
    home, now = world.home, datetime.now(UTC)
    made = make_certificate(make_authority(DOMAIN, now), DOMAIN, now)
    (home.path / "server.pem").write_bytes(made.certificate + made.key)
    words = {
        "--listen": "127.0.0.1:7777",
        "--tls-listen": "127.0.0.1:8443",
        "--tls-cert": home.path / "server.pem",
        "--tls-key": home.path / "server.pem",
        "--domain": DOMAIN,
        "--zone-listen": doors.names_listen(home.id, ""),
        "--zone-address": "127.0.0.1",
        "--api": home.api_socket,
        "--control": home.control_socket,
        "--admin": home.edge_socket,
        "--range": "10.99.0.0/16",
    }
    process = subprocess.Popen(
        [
            *world.resolver.inside(str(program("atoll-edge"))),
            *(str(w) for pair in words.items() for w in pair),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def links(world: World) -> list[str]:
    return sorted(link["ifname"] for link in json.loads(world.resolver.run("ip", "-j", "link").stdout))


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < end, "not within patience"
        time.sleep(0.05)


def test_names_of_the_domain_go_to_us_and_all_others_elsewhere(world: World) -> None:
    before = world.resolver.resolv_conf.read_bytes()
    assert world.resolver.resolve("before.sbx.test") == [ADDRESS]

    with edge(world):
        for _ in range(2):
            done = world.dns("install")
            assert done.returncode == 0, done.stderr
            assert "systemd-resolved asks" in done.stderr

        link = link_name(world.home.id)
        assert world.resolver.resolve("3000-i0123456789abcdefghij.sbx.test") == ["127.0.0.1"]
        assert f"-- link: {link}" in world.query("api.sbx.test")
        assert world.resolver.resolve("www.example.org") == [ADDRESS]
        assert f"-- link: {link}" not in world.query("other.example.org")
        assert world.resolver.resolve("notsbx.test") == [ADDRESS]
        asked = set(world.resolver.asked_upstream())
        assert {"www.example.org", "other.example.org", "notsbx.test", "before.sbx.test"} <= asked
        assert {name for name in asked if name.endswith("sbx.test")} == {"notsbx.test", "before.sbx.test"}
        status = world.resolver.run("resolvectl", "status", link).stdout
        assert "DNS Domain: ~sbx.test" in status
        assert "-DefaultRoute" in status or "DefaultRoute setting: no" in status

        done = world.dns("remove")
        assert done.returncode == 0, done.stderr
        assert "systemd-resolved is as it was" in done.stderr

    # It hears of the link's end from the kernel.
    until(lambda: "sbx.test" not in world.resolver.run("resolvectl", "status").stdout)
    until(lambda: world.resolver.resolve("after.sbx.test") == [ADDRESS])
    assert links(world) == ["lo", "up0", "up1"]
    assert world.resolver.resolv_conf.read_bytes() == before
    assert not (world.home.path / "dns.json").exists()
    assert "nothing to undo" in world.dns("remove").stderr


def test_all_other_names_resolve_while_we_are_down(world: World) -> None:
    try:
        with edge(world):
            done = world.dns("install")
            assert done.returncode == 0, done.stderr
            assert world.resolver.resolve("api.sbx.test") == ["127.0.0.1"]

        assert world.resolver.resolve("www.example.net") == [ADDRESS]
        assert world.resolver.resolve("down.sbx.test") == []
        assert "down.sbx.test" not in world.resolver.asked_upstream()

        with edge(world):
            until(lambda: world.resolver.resolve("again.sbx.test") == ["127.0.0.1"])
    finally:
        assert world.dns("remove").returncode == 0
