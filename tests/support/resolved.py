"""
A running systemd-resolved with a system bus, in mount and network namespaces of their own.

Debian's packages are unpacked, not installed: installing systemd-resolved takes over the machine's resolver.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.sources import PYTHONPATH

PATIENCE_S = 30.0
# Whom resolved asks about everything that nobody else is named for.
UPSTREAM = "127.99.7.53"
_PACKAGES = ("systemd-resolved", "libsystemd-shared")
_KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atoll-tests" / "resolved"
_USER = "systemd-resolve:x:9531:9531::/:/usr/sbin/nologin\n"
_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
    <allow send_type="method_call"/> <allow send_type="signal"/> <allow send_type="method_return"/>
    <allow send_type="error"/> <allow receive_type="method_call"/> <allow receive_type="signal"/>
    <allow receive_type="method_return"/> <allow receive_type="error"/>
  </policy>
</busconfig>
"""
# $0 holds our files. Everything is mounted here only.
_PREPARE = """
set -eu
ip link set lo up
# Without a link that leads somewhere resolved asks nobody.
ip link add up0 type veth peer name up1
ip address add 198.51.100.1/24 dev up0
ip link set up1 up
ip link set up0 up
mount -t tmpfs none /run
mkdir -p /run/dbus /run/systemd/resolve /run/systemd/resolved.conf.d
chown 9531:9531 /run/systemd/resolve
cp "$0/upstream.conf" /run/systemd/resolved.conf.d/
for file in passwd group nsswitch.conf resolv.conf; do mount --bind "$0/$file" /etc/$file; done
echo ready
exec sleep infinity
"""
_NAME_SERVER = """
import json, sys
from support.name_server import name_server
with name_server(sys.argv[1]) as asked:
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(asked), flush=True)
"""


@dataclass(frozen=True)
class Resolved:
    """The namespaces, by the process that holds them; programs from packages are on PATH inside."""

    pid: int
    packages: Path
    resolv_conf: Path
    upstream: "subprocess.Popen[str]"

    @property
    def environment(self) -> dict[str, str]:
        """What programs inside are started with."""
        library = next(self.packages.rglob("libsystemd-shared-*.so")).parent
        return {
            **os.environ,
            "PATH": f"{self.packages}/usr/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "LD_LIBRARY_PATH": str(library),
            "PYTHONPATH": PYTHONPATH,
        }

    def inside(self, *command: str) -> list[str]:
        """Say how a program is run inside that must not outlive us."""
        return ["setpriv", "--pdeathsig", "KILL", *_inside(self.pid, *command)]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        words = _inside(self.pid, *command)
        return subprocess.run(words, capture_output=True, text=True, timeout=60, env=self.environment)

    def resolve(self, name: str) -> list[str]:
        """Look a name up as programs do."""
        return sorted({line.split()[0] for line in self.run("getent", "ahosts", name).stdout.splitlines()})

    def asked_upstream(self) -> list[str]:
        """List the names that the server was asked that knows everything but ours."""
        assert self.upstream.stdin is not None
        assert self.upstream.stdout is not None
        self.upstream.stdin.write("\n")
        self.upstream.stdin.flush()
        return list(json.loads(self.upstream.stdout.readline()))


def _inside(pid: int, *command: str) -> list[str]:
    return ["nsenter", f"--target={pid}", "--mount", "--net", "--", *command]


@contextlib.contextmanager
def resolved() -> Iterator[Resolved]:
    """Start all of it, and end all of it."""
    packages = _unpacked()
    with tempfile.TemporaryDirectory(prefix="atoll-test-") as name, contextlib.ExitStack() as stack:
        place = Path(name)
        _write_files(place)
        own = ("setpriv", "--pdeathsig", "KILL")
        spaces = ("unshare", "--mount", "--net", "--propagation", "private")
        holder = _start(stack, *own, *spaces, "sh", "-c", _PREPARE, name)
        _await_line(holder, "ready")
        made = Resolved(holder.pid, packages, place / "resolv.conf", holder)

        def start(*command: str, **kwargs: Any) -> "subprocess.Popen[str]":
            return _start(stack, *made.inside(*command), env=made.environment, **kwargs)

        upstream = start(sys.executable, "-c", _NAME_SERVER, UPSTREAM, stdin=subprocess.PIPE)
        _await_line(upstream, "ready")
        start("dbus-daemon", f"--config-file={place}/bus.conf", "--nofork", stdout=subprocess.DEVNULL)
        _until("a bus", lambda: made.run("test", "-S", "/run/dbus/system_bus_socket").returncode == 0)
        program = next(packages.rglob("systemd/systemd-resolved"), None)
        assert program is not None
        log = stack.enter_context((place / "resolved.log").open("w"))
        daemon = start(str(program), stdout=log, stderr=log)
        try:
            _until("resolved", lambda: made.run("resolvectl", "status").returncode == 0)
        except AssertionError:
            pytest.fail(f"resolved ({daemon.poll()}): {(place / 'resolved.log').read_text()}")
        yield Resolved(holder.pid, packages, place / "resolv.conf", upstream)


def _write_files(place: Path) -> None:
    (place / "bus.conf").write_text(_BUS)
    (place / "upstream.conf").write_text(
        f"[Resolve]\nDNS={UPSTREAM}\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n"
    )
    (place / "resolv.conf").write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    (place / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    for file, line in (("passwd", _USER), ("group", "systemd-resolve:x:9531:\n")):
        (place / file).write_text((Path("/etc") / file).read_text().rstrip("\n") + "\n" + line)


def _start(stack: contextlib.ExitStack, *command: str, **kwargs: Any) -> "subprocess.Popen[str]":
    kwargs.setdefault("stdout", subprocess.PIPE)
    process = subprocess.Popen(command, text=True, **kwargs)

    def end() -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    stack.callback(end)
    return process


def _await_line(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == line


def _until(what: str, there: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < end, f"no {what} within {PATIENCE_S:g} s"
        time.sleep(0.05)


def _unpacked() -> Path:
    """Have the packages unpacked; other distributions have none of these."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get: systemd-resolved is taken from Debian's package")
    if shutil.which("dbus-daemon") is None:
        pytest.skip("no dbus-daemon: `scripts/packages test` installs it")
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    with (_KEPT.parent / "resolved.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _KEPT.exists():
            return _KEPT
        with tempfile.TemporaryDirectory(dir=_KEPT.parent) as name:
            download = ["apt-get", "-qq", "download", *_PACKAGES]
            if subprocess.run(download, cwd=name, capture_output=True, timeout=200).returncode != 0:
                subprocess.run(["apt-get", "-qq", "update"], check=True, timeout=200)
                subprocess.run(download, cwd=name, check=True, timeout=200)
            for package in Path(name).glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, Path(name) / "all"], check=True, timeout=60)
            (Path(name) / "all").rename(_KEPT)
    return _KEPT
