"""
The way by systemd-resolved: link and address are real, ``resolvectl`` is one that writes down its words.

Whether a real resolved follows these words is for test_resolved_runs.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.main import resolving
from atoll.server.settings.home import Home, open_home

ADDRESS = "127.83.1.2"

# Run in a network namespace of its own.
_INSIDE = f"""
import json, socket, struct, subprocess, sys
from pathlib import Path
from atoll.server.main import left_names, resolving
from atoll.server.settings.home import open_home
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
home, file = open_home(Path(sys.argv[1])), Path(sys.argv[2])
before = file.read_bytes()
for _ in range(2):
    said = resolving.install(home, address="{ADDRESS}", domain="sbx.test", path=file)
# A question as resolved asks it: bound to the link.
with (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
      socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker):
    server.bind(("{ADDRESS}", 53)); server.settimeout(5)
    index = socket.if_nametoindex(resolving.link_name(home.id))
    asker.setsockopt(socket.IPPROTO_IP, 50, struct.pack("!I", index))
    asker.connect(("{ADDRESS}", 53)); asker.send(b"question")
    arrived = server.recv(100).decode()
record, undone = home.path / "dns.json", resolving.remove(home, path=file)
removed = record.exists()
# The home is deleted, and its record with it.
resolving.install(home, address="{ADDRESS}", domain="sbx.test", path=file)
record.unlink()
files = dict(resolver=file, hosts=Path("/nowhere"))
left, taken = left_names.find(**files).get(home.id), left_names.take_out(home.id, **files)
print(json.dumps(dict(said=said, arrived=arrived, undone=undone, unchanged=file.read_bytes() == before,
    left=left, taken=taken, links=[name for _, name in socket.if_nameindex()], record=removed)))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    # A home's path is short.
    with tempfile.TemporaryDirectory(prefix="atoll-test-") as directory:
        yield Path(directory)


@pytest.fixture
def stub(place: Path) -> Path:
    file = place / "resolv.conf"
    file.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    return file


def run_inside(home: Home, stub: Path, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _INSIDE, str(home.path), str(stub)],
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_resolved_is_told_the_domain_by_a_link_that_carries_the_address(place: Path, stub: Path) -> None:
    home = open_home(place / "h")
    program = place / "bin" / "resolvectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {place}/words\n')
    program.chmod(0o755)

    done = run_inside(home, stub, program.parent)

    assert done.returncode == 0, done.stderr
    link = f"atdns{home.id}"
    words = [f"dns {link} {ADDRESS}", f"domain {link} ~sbx.test", f"default-route {link} no"]
    assert (place / "words").read_text().splitlines() == words * 3
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.pop("links") == ["lo"]
    assert result == {
        "said": f"systemd-resolved asks {ADDRESS} for names of sbx.test.",
        "arrived": "question",
        "undone": "systemd-resolved is as it was.",
        "unchanged": True,
        "left": [link],
        "taken": [link],
        "record": False,
    }


def test_a_resolved_that_refuses_is_told_and_can_be_undone(place: Path, stub: Path) -> None:
    home = open_home(place / "h")
    program = place / "bin" / "resolvectl"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    program.chmod(0o755)

    done = run_inside(home, stub, program.parent)

    assert done.returncode == 1
    assert "Failed to connect to bus" in done.stderr
    assert resolving.installed(home) is not None
    assert resolving.remove(home, path=stub) == "systemd-resolved is as it was."
    assert resolving.installed(home) is None


def test_a_damaged_record_is_told(place: Path, stub: Path) -> None:
    home = open_home(place / "h")
    (home.path / "dns.json").write_text("{}")

    with pytest.raises(Exception, match="does not say what was changed"):
        resolving.remove(home, path=stub)


def test_a_file_that_is_gone_is_no_hindrance_to_remove(place: Path) -> None:
    home = open_home(place / "h")
    file = place / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    resolving.install(home, address=ADDRESS, domain="sbx.test", path=file)
    file.unlink()

    assert "replaced" in (resolving.remove(home, path=file) or "")
    with pytest.raises(FailedPreconditionError, match="There is no"):
        resolving.install(home, address=ADDRESS, domain="sbx.test", path=file)


def test_two_homes_leave_what_was_there_in_whichever_order_they_go(place: Path) -> None:
    first, second = open_home(place / "a"), open_home(place / "b")
    file = place / "resolv.conf"
    for order in ((first, second), (second, first)):
        file.write_text("search example.org\nnameserver 192.0.2.1\n")
        before = file.read_bytes()
        resolving.install(first, address="127.83.1.2", domain="one.test", path=file)
        resolving.install(second, address="127.83.1.3", domain="two.test", path=file)
        for home in order:
            resolving.remove(home, path=file)
        assert file.read_bytes() == before
