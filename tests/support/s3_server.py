"""A real S3 server for tests: versitygw over a directory, built by Go from its pinned module."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.server.host.blobs import S3Bucket
from atoll.server.host.ports import free_port
from support.gvisor import CACHE

# Versity's own, Apache-2.0, released monthly: S3 over files, so that tests can damage what it keeps. No tool
# of dataplane/go.mod, since it would bring the clients of three clouds along.
MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
BUCKET = "runs"
ACCESS, SECRET = "atoll-tests", "a secret of the tests"
_PATIENCE_S = 20.0


def program() -> Path:
    """Return the server's program; the first time, compile it."""
    directory = CACHE / "tools" / MODULE.rpartition("/")[2]
    found = directory / "versitygw"
    if not found.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as new:
            environment = {**os.environ, "GOBIN": new, "CGO_ENABLED": "0"}
            subprocess.run(["go", "install", MODULE], check=True, env=environment, timeout=1200)
            shutil.move(Path(new) / "versitygw", found)
    return found


class S3Server:
    """A server with one bucket, whose objects are files of ``directory``."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def objects(self) -> list[Path]:
        """List the files of the bucket's objects; what comes and goes while one looks is passed over."""
        folders = os.walk(self.directory / BUCKET)
        found = (Path(folder) / name for folder, _, names in folders for name in names)
        return sorted(path for path in found if len(path.name) == 64)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            [program(), "--port", f"127.0.0.1:{self.port}", "--quiet", "posix", self.directory],
            env={**os.environ, "ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, "it ended"
                assert time.monotonic() < until, "it does not listen"
                time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def bucket(self, *, port: int | None = None, secret: str = SECRET, timeout_s: float = 10) -> S3Bucket:
        """Say where it is, and who may use it."""
        return S3Bucket(
            endpoint=f"http://127.0.0.1:{port or self.port}",
            bucket=BUCKET,
            region="us-east-1",
            prefix="atoll/123456",
            access_key=ACCESS,
            secret_key=secret,
            roots="",
            timeout_s=timeout_s,
        )


@contextmanager
def s3_server(directory: Path) -> Iterator[S3Server]:
    """Run one over a directory."""
    (directory / BUCKET).mkdir(parents=True)
    server = S3Server(directory, free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()
