"""
A mount namespace with an /etc/resolv.conf and /etc/hosts of its own, so that tests may change them.

This machine's own files are never touched.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import home as homes
from support.home import UP_TIMEOUT_S, LiveHome, free_address, new_directory

_HOLD = (
    'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/hosts && echo ready && exec sleep infinity'
)


# It must not outlive whoever made it.
_OWN = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private")


@dataclass(frozen=True)
class OwnResolver:
    """The namespace: the process that holds it, and its files as they are seen from outside."""

    pid: int
    resolv_conf: Path
    hosts: Path

    def inside(self, *command: str) -> list[str]:
        """Say how a command is run inside."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--", *command]

    def run(self, *command: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        kwargs.setdefault("timeout", 60)
        return subprocess.run(self.inside(*command), capture_output=True, text=True, **kwargs)

    def resolve(self, name: str) -> list[str]:
        """Look a name up inside, as programs do."""
        return sorted({line.split()[0] for line in self.run("getent", "ahosts", name).stdout.splitlines()})


@contextlib.contextmanager
def own_resolver() -> Iterator[OwnResolver]:
    """Make the namespace, with copies of this machine's files."""
    with tempfile.TemporaryDirectory(prefix="atoll-test-etc-") as directory:
        files = [Path(directory) / name for name in ("resolv.conf", "hosts")]
        for file in files:
            shutil.copyfile(Path("/etc") / file.name, file)
        holder = subprocess.Popen(
            [*_OWN, "sh", "-c", _HOLD, *map(str, files)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            yield OwnResolver(holder.pid, *files)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            if holder.stdout is not None:
                holder.stdout.close()


@dataclass(frozen=True)
class DomainHome(LiveHome):
    """A home with a domain, inside such a namespace."""

    resolver: OwnResolver
    tls_listen: str
    domain: str = "sbx.test"
    more: tuple[str, ...] = ()

    def atoll(self, *args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line on this home."""
        kwargs.setdefault("timeout", UP_TIMEOUT_S)
        return self.resolver.run(str(homes.ATOLL), *args, env={**os.environ, **self.env}, **kwargs)

    def start(self) -> None:
        """Start the server, or start it again, and wait until it answers."""
        words = [
            "--listen",
            self.listen,
            "--domain",
            self.domain,
            "--tls-listen",
            self.tls_listen,
            *self.more,
        ]
        done = self.atoll("up", "--home", str(self.path), *words, "--detach")
        assert done.returncode == 0, f"atoll up failed\n{done.stdout}\n{done.stderr}\n{self.log_tail()}"

    @property
    def exports(self) -> dict[str, str]:
        """What ``atoll env`` prints now: it changes with how names resolve."""
        return self.exports_now()

    def living(self) -> list[str]:
        """List what runs of this home: server, edge, sandboxes."""
        words = ("atoll.server.main", "atoll-edge", "runsc")
        return [" ".join(process.cmdline()) for word in words for process in self.processes(word)]

    def dns(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Call ``atoll dns``."""
        return self.atoll("dns", verb, "--home", str(self.path))

    @property
    def client_environment(self) -> dict[str, str]:
        """What a client gets that was started after ``atoll env``."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
        return kept | self.exports


@contextlib.contextmanager
def domain_home() -> Iterator[DomainHome]:
    """Start such a home, and take all of it down afterwards."""
    path = new_directory()
    with own_resolver() as resolver:
        home = DomainHome(path=path, listen=free_address(), resolver=resolver, tls_listen=free_address())
        try:
            home.start()
            yield home
        finally:
            try:
                home.down()
            finally:
                shutil.rmtree(path, ignore_errors=True)
