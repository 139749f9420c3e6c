"""``atoll dns install --hosts``: names of live sandboxes in an /etc/hosts of the test's own."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from e2e.test_domain import FIRST_LINE, PORTS
from e2e.test_e2b_older import FLOW, environment_with
from support.own_resolver import DomainHome, domain_home

from atoll import Sandbox

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def home() -> Iterator[DomainHome]:
    with domain_home() as live:
        yield live


def install(home: DomainHome) -> subprocess.CompletedProcess[str]:
    return home.atoll("dns", "install", "--hosts", "--home", str(home.path))


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < end, "not within patience"
        time.sleep(0.05)


def create(home: DomainHome) -> Sandbox:
    return Sandbox.create(
        "minimal", api_url=home.exports["ATOLL_API_URL"], api_key=home.exports["ATOLL_API_KEY"], timeout=300
    )


def test_names_come_and_go_with_sandboxes_and_leave_no_trace(home: DomainHome) -> None:
    file, resolver = home.resolver.hosts, home.resolver.resolv_conf.read_bytes()
    # No newline at its end, as some programs write it.
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    before, mode = file.read_bytes(), stat.S_IMODE(file.stat().st_mode)
    first = create(home)

    for _ in range(2):
        done = install(home)
        assert done.returncode == 0, done.stderr

    assert home.resolver.resolve("api.sbx.test") == ["127.0.0.1"]
    assert home.resolver.resolve(f"8080-{first.id}.sbx.test") == ["127.0.0.1"]
    assert home.resolver.resolve(f"8081-{first.id}.sbx.test") == []
    # It is found as soon as it is there.
    second = create(home)
    assert home.resolver.resolve(f"49983-{second.id}.sbx.test") == ["127.0.0.1"]
    first.kill()
    first.close()
    until(lambda: home.resolver.resolve(f"8080-{first.id}.sbx.test") == [])
    assert home.resolver.resolve(f"49983-{second.id}.sbx.test") == ["127.0.0.1"]
    told = home.atoll("doctor", "--home", str(home.path)).stdout
    assert "names of sbx.test resolve, by way of hosts" in told

    done = home.dns("remove")
    assert done.returncode == 0, done.stderr
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (before, mode)
    assert home.resolver.resolv_conf.read_bytes() == resolver
    third = create(home)
    assert file.read_bytes() == before
    assert "nothing to undo" in home.dns("remove").stderr
    for one in (second, third):
        one.kill()
        one.close()


def test_released_clients_are_content(home: DomainHome) -> None:
    assert install(home).returncode == 0
    environment = home.client_environment
    assert environment["E2B_SANDBOX_URL"] == f"https://sandbox.{environment['E2B_DOMAIN']}"
    # The first of them looks names up as the system does, and knows no address but the domain.
    for python, program in ((environment_with(FIRST_LINE), PORTS), (sys.executable, FLOW)):
        done = home.resolver.run(python, str(program), env=environment, timeout=200)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("is content\n")
    assert home.dns("remove").returncode == 0
    assert "E2B_SANDBOX_URL" not in home.exports


def test_a_server_that_was_killed_leaves_names_that_the_next_one_mends(home: DomainHome) -> None:
    file = home.resolver.hosts
    before = file.read_bytes()
    live = create(home)
    assert install(home).returncode == 0
    os.kill(home.server_pid(), signal.SIGKILL)
    # Torn, as a write that did not get to its end.
    torn = file.read_bytes().replace(live.id.encode(), b"i0000000000000000dead")
    file.write_bytes(torn[:-60])

    home.start()

    until(lambda: home.resolver.resolve(f"8080-{live.id}.sbx.test") == ["127.0.0.1"])
    assert b"dead" not in file.read_bytes()
    live.kill()
    live.close()
    assert home.dns("remove").returncode == 0
    assert file.read_bytes() == before


def test_what_somebody_else_wrote_into_the_block_is_left_and_told(home: DomainHome) -> None:
    file = home.resolver.hosts
    before = file.read_bytes()
    assert install(home).returncode == 0
    line = b"127.0.0.1 api.sbx.test\n"
    file.write_bytes(file.read_bytes().replace(line, line + b"192.0.2.7 theirs.example\n"))

    done = home.dns("remove")

    assert done.returncode == 0
    assert "Somebody else has changed our block" in done.stderr
    left = before if not before or before.endswith(b"\n") else before + b"\n"
    assert file.read_bytes() in (before + b"192.0.2.7 theirs.example\n", left + b"192.0.2.7 theirs.example\n")
    file.write_bytes(before)


def test_a_file_that_cannot_be_written_is_told_and_nothing_stays(home: DomainHome) -> None:
    mounted = ("mount", "-o", "remount,bind,ro", "/etc/hosts")
    assert home.resolver.run(*mounted).returncode == 0
    try:
        done = install(home)
        assert done.returncode == 1
        assert "read-only" in done.stderr
    finally:
        assert home.resolver.run("mount", "-o", "remount,bind,rw", "/etc/hosts").returncode == 0
    assert "nothing to undo" in home.dns("remove").stderr


def test_the_other_way_replaces_this_one_and_down_takes_it_out() -> None:
    with domain_home() as home:
        hosts, resolver = home.resolver.hosts.read_bytes(), home.resolver.resolv_conf.read_bytes()
        assert install(home).returncode == 0
        assert home.dns("install").returncode == 0
        assert home.resolver.hosts.read_bytes() == hosts
        assert home.resolver.resolv_conf.read_bytes() != resolver
        assert install(home).returncode == 0
        assert home.resolver.hosts.read_bytes() != hosts
        assert home.resolver.resolv_conf.read_bytes() == resolver
        home.down()
        assert home.resolver.hosts.read_bytes() == hosts
