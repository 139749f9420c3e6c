"""The released client says what a sandbox may reach, and changes it while it runs."""

from collections.abc import Iterator
from typing import Any

import pytest
from e2b import ALL_TRAFFIC, Sandbox, SandboxException
from support.network import FORBIDDEN4, PUBLIC4, TCP_PORT, world

PROBE = """
import socket, sys
try:
    print("reached", socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).recv(100))
except OSError as error:
    print("not reached", error)
"""


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with world():
        yield


@pytest.fixture
def sandbox(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    network = {"deny_out": [ALL_TRAFFIC], "allow_out": [PUBLIC4]}
    made = Sandbox.create("minimal", timeout=300, network=network, **client_options)
    made.files.write("/tmp/probe.py", PROBE)
    yield made
    made.kill()


def reaches(sandbox: Sandbox, address: str) -> bool:
    said = sandbox.commands.run(f"python3 /tmp/probe.py {address} {TCP_PORT}").stdout
    assert said.startswith(("reached", "not reached")), said
    return said.startswith("reached")


def test_what_is_allowed_is_reached_and_nothing_else(sandbox: Sandbox) -> None:
    info = sandbox.get_info()

    assert reaches(sandbox, PUBLIC4)
    assert not reaches(sandbox, "1.1.1.1")
    assert not any(reaches(sandbox, address) for address in FORBIDDEN4)
    assert info.network is not None
    assert info.network["allow_out"] == [PUBLIC4]
    assert info.network["deny_out"] == [ALL_TRAFFIC]


def test_rules_are_replaced_while_it_runs(sandbox: Sandbox) -> None:
    sandbox.update_network({"deny_out": ["192.175.48.0/24"]})
    denied = reaches(sandbox, PUBLIC4)
    sandbox.update_network({})
    open_again = reaches(sandbox, PUBLIC4)
    sandbox.update_network({"allow_internet_access": False})
    closed = reaches(sandbox, PUBLIC4)
    sandbox.update_network({"allow_out": [PUBLIC4, "10.0.0.0/8"], "deny_out": [ALL_TRAFFIC]})

    assert (denied, open_again, closed) == (False, True, False)
    assert reaches(sandbox, PUBLIC4)
    assert not reaches(sandbox, "10.250.77.1")


def test_wrong_rules_are_refused_and_the_old_ones_stay(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxException, match=r"invalid denied CIDR example\.com"):
        sandbox.update_network({"deny_out": ["example.com"]})
    with pytest.raises(SandboxException, match="you must include 'ALL_TRAFFIC' in deny out"):
        sandbox.update_network({"allow_out": ["example.com"]})

    assert reaches(sandbox, PUBLIC4)
    assert not reaches(sandbox, "1.1.1.1")
