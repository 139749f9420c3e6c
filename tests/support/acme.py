"""An ACME authority: Let's Encrypt's own one for tests, as a program; go.mod has its version."""

import contextlib
import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from atoll.server.edge.authority import make_authority, make_certificate
from support.home import free_address

_DATAPLANE = Path(__file__).parents[2] / "dataplane"
_PACKAGE = "github.com/letsencrypt/pebble/v2/cmd/pebble"
_PATIENCE_S = 30.0
# Its own name, which a hosts file has to lead to this machine.
HOST = "acme.pebble.test"


@dataclass(frozen=True)
class Authority:
    """
    One that runs.

    Attributes:
        directory: its address.
        bundle: file with what its own certificate is signed by.
        roots: file with what it signs certificates by.
    """

    directory: str
    bundle: Path
    roots: Path
    process: "subprocess.Popen[bytes]"


@contextlib.contextmanager
def authority(place: Path, resolver: str) -> Iterator[Authority]:
    """Run one that asks a resolver (``host:port``) for records."""
    program = place / "pebble"
    subprocess.run(["go", "build", "-o", program, _PACKAGE], cwd=_DATAPLANE, check=True, timeout=300)
    ours = make_authority("pebble.test", datetime.now(UTC))
    made = make_certificate(ours, "pebble.test", datetime.now(UTC))
    for name, content in (
        ("bundle.pem", ours.certificate),
        ("cert.pem", made.certificate),
        ("key.pem", made.key),
    ):
        (place / name).write_bytes(content)
    listen, management = free_address(), free_address()
    config = {
        "listenAddress": listen,
        "managementListenAddress": management,
        "certificate": str(place / "cert.pem"),
        "privateKey": str(place / "key.pem"),
        "httpPort": 1,
        "tlsPort": 1,
    }
    (place / "pebble.json").write_text(json.dumps({"pebble": config}))
    with (place / "pebble.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-config", place / "pebble.json", "-strict", "-dnsserver", resolver],
            stdout=log,
            stderr=log,
            env={**os.environ, "PEBBLE_VA_NOSLEEP": "1"},
        )
    try:
        roots = place / "roots.pem"
        roots.write_bytes(_fetch(f"https://{management}/roots/0", place / "bundle.pem", process))
        port = listen.rpartition(":")[2]
        yield Authority(f"https://{HOST}:{port}/dir", place / "bundle.pem", roots, process)
    finally:
        process.kill()
        process.wait()


def _fetch(url: str, bundle: Path, process: "subprocess.Popen[bytes]") -> bytes:
    """Ask it until it listens."""
    context = ssl.create_default_context(cafile=str(bundle))
    # It is asked by number here.
    context.check_hostname = False
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(url, context=context, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                raise
            time.sleep(0.05)
