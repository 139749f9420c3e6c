"""
A home: the directory that holds all that one server has, and the names of the things in it.

Made once, with an id that everything of this home on the machine carries.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from atoll.server.domain.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from atoll.server.domain.keys import KeyKind, new_key

# Files of homes that everybody may read; gone after a reboot, and written again by the next start.
PUBLIC = Path("/run/atoll/public")
# A socket's path has at most 107 bytes, and the longest of ours below a home takes 20; runsc's take more, and
# its state directory may have 64.
MOST_PATH_BYTES = 50
_ID = re.compile(r"[0-9a-f]{6}")
_SECRET = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"e2b_[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Home:
    """
    Where things are.

    Attributes:
        path: the home itself.
        id: 6 hexadecimal digits.
        cache: where templates and runsc are; the home, unless homes share one.
    """

    path: Path
    id: str
    cache: Path

    @property
    def identity(self) -> Path:
        """Says the home's id; a directory without it is no home."""
        return self.path / "home.json"

    @property
    def database(self) -> Path:
        """The rows."""
        return self.path / "atoll.db"

    @property
    def settings(self) -> Path:
        """What the operator changed."""
        return self.path / "settings.toml"

    @property
    def run(self) -> Path:
        """Sockets and the lock."""
        return self.path / "run"

    @property
    def api_socket(self) -> Path:
        """The public API, behind the edge."""
        return self.run / "api.sock"

    @property
    def control_socket(self) -> Path:
        """Where the edge asks."""
        return self.run / "control.sock"

    @property
    def edge_socket(self) -> Path:
        """Where the edge is told."""
        return self.run / "edge.sock"

    @property
    def lock_file(self) -> Path:
        """Held by the server, with its process id inside."""
        return self.run / "server.lock"

    @property
    def server_log(self) -> Path:
        """The server's log."""
        return self.path / "logs" / "server.log"

    @property
    def server_errors(self) -> Path:
        """What the server says to people, where no terminal shows it; begun anew with each start."""
        return self.path / "logs" / "server.err"

    @property
    def edge_log(self) -> Path:
        """The edge's log."""
        return self.path / "logs" / "edge.log"

    @property
    def certificates(self) -> Path:
        """Authorities and certificates, a directory for each domain."""
        return self.path / "tls"

    @property
    def egress_authority(self) -> Path:
        """What signs names of sandboxes' rules: certificate and key."""
        return self.certificates / "egress.pem"

    @property
    def public(self) -> Path:
        """What everybody on this machine may read: the home itself is for root."""
        return PUBLIC / self.id

    @property
    def templates(self) -> Path:
        """Built templates."""
        return self.cache / "templates"

    @property
    def runsc(self) -> Path:
        """Versions of runsc, side by side."""
        return self.cache / "runsc"

    @property
    def sandboxes(self) -> Path:
        """A directory for each sandbox."""
        return self.path / "sandboxes"

    @property
    def volume_mounts(self) -> Path:
        """Where volumes are mounted for sandboxes."""
        return self.path / "mounts"

    @property
    def volumes(self) -> Path:
        """What outlives sandboxes."""
        return self.path / "volumes"

    @property
    def samples(self) -> Path:
        """What sandboxes used: a file for each."""
        return self.path / "metrics"

    @property
    def sandbox_logs(self) -> Path:
        """What happened in sandboxes: a file for each."""
        return self.path / "sandbox-logs"

    @property
    def runsc_state(self) -> Path:
        """What gVisor keeps for itself."""
        return self.path / "runsc-state"

    @property
    def checkpoints(self) -> Path:
        """What paused sandboxes come back from."""
        return self.path / "checkpoints"

    @property
    def blobs(self) -> Path:
        """Runs of pages that checkpoints share, and the lock of those who pack and sweep."""
        return self.path / "blobs"

    @property
    def shares(self) -> bool:
        """Whether other homes may use the same templates and versions of runsc."""
        return self.cache != self.path

    @property
    def guestds(self) -> Path:
        """Copies of guestd's program that sandboxes and checkpoints need."""
        return self.path / "guestd"

    @property
    def slots(self) -> Path:
        """Who holds which network namespace."""
        return self.path / "slots"

    @property
    def address_range(self) -> IPv4Network | None:
        """The addresses of this home's sandboxes; None before they were chosen."""
        text = _read_identity(self.path).get("range")
        return IPv4Network(text) if text else None

    def keep_address_range(self, network: IPv4Network) -> None:
        """Write down which addresses were chosen."""
        _write_identity(self.path, {**_read_identity(self.path), "range": str(network)})

    @property
    def dns_port(self) -> int | None:
        """Where this home's edge answers sandboxes' DNS questions; None before it was chosen."""
        return _read_identity(self.path).get("dns_port")

    def keep_dns_port(self, port: int) -> None:
        """Write down which port was chosen."""
        _write_identity(self.path, {**_read_identity(self.path), "dns_port": port})

    @property
    def egress_port(self) -> int | None:
        """Where this home's edge takes connections that go by domains; None before it was chosen."""
        return _read_identity(self.path).get("egress_port")

    def keep_egress_port(self, port: int) -> None:
        """Write down which port was chosen."""
        _write_identity(self.path, {**_read_identity(self.path), "egress_port": port})

    def api_key(self) -> str:
        """
        Read the key that may call this home's API.

        Raises:
            InternalError: somebody changed the file into something else.
        """
        return _read_secret(self.path / "key", _KEY)

    def secret(self) -> bytes:
        """
        Read what access tokens derive from.

        Raises:
            InternalError: somebody changed the file into something else.
        """
        return bytes.fromhex(_read_secret(self.path / "secret", _SECRET))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """
        Be the one server of this home; the kernel lets go when the process ends, however that happens.

        Raises:
            FailedPreconditionError: another one runs.
        """
        fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FailedPreconditionError(
                    f"A server runs already in {self.path}",
                    details=f"process {os.pread(fd, 32, 0).decode(errors='replace').strip()}",
                    resolution="'atoll down' ends it; another home can have another server.",
                ) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)

    def server_pid(self) -> int | None:
        """Return the process that holds the lock; None when nobody does."""
        try:
            fd = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(fd, 32, 0).strip()
            return int(text) if text.isdigit() else None
        else:
            return None
        finally:
            os.close(fd)


def open_home(path: Path, *, cache: Path | None = None) -> Home:
    """
    Make a home, or find the one that is there.

    Being cut off at any moment is harmless: what is missing is made by the next call.

    Raises:
        InvalidArgumentError: the path cannot be one.
        InternalError: home.json does not say what it should.
    """
    path = path.absolute()
    if len(os.fsencode(path)) > MOST_PATH_BYTES:
        raise InvalidArgumentError(
            f"The home's path is too long: {path}",
            details=f"{len(os.fsencode(path))} bytes; sockets in it leave room for {MOST_PATH_BYTES}",
            resolution="Choose a shorter one.",
        )
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidArgumentError(f"{path} is no directory") from error
    for directory in (path / "run", path / "logs", path / "sandboxes"):
        directory.mkdir(mode=0o700, exist_ok=True)
    # Others would see keys, secrets and what sandboxes write.
    path.chmod(0o700)
    if not (path / "home.json").exists():
        _write_identity(path, {"id": secrets.token_hex(3)})
    _make_secret(path / "key", lambda: new_key(KeyKind.HOME))
    _make_secret(path / "secret", lambda: secrets.token_hex(32))
    return Home(path=path, id=_read_identity(path)["id"], cache=(cache or path).absolute())


def find_home(path: Path, *, cache: Path | None = None) -> Home | None:
    """Find the home that is there, and make nothing; None when there is none."""
    path = path.absolute()
    if not (path / "home.json").exists():
        return None
    return Home(path=path, id=_read_identity(path)["id"], cache=(cache or path).absolute())


def _read_identity(path: Path) -> dict[str, Any]:
    file = path / "home.json"
    try:
        content: Any = json.loads(file.read_text())
        if not isinstance(content, dict) or not _ID.fullmatch(str(content.get("id"))):
            raise ValueError("no id of 6 hexadecimal digits")
        if content.get("range") is not None:
            IPv4Network(content["range"])
        for name in ("dns_port", "egress_port"):
            if not 0 < int(content.get(name, 1)) < 65536:
                raise ValueError(f"{name} is no port")
    except (ValueError, TypeError) as error:
        raise InternalError(
            f"{file} does not say whose home this is",
            details=str(error),
            resolution="Restore it; without it nothing of this home on the machine can be found again.",
        ) from error
    return content


def _write_identity(path: Path, content: dict[str, Any]) -> None:
    _write(path / "home.json", json.dumps(content, indent=1) + "\n", mode=0o644)


def _make_secret(file: Path, make: Any) -> None:
    if not file.exists():
        _write(file, make() + "\n", mode=0o600)


def _read_secret(file: Path, form: re.Pattern[str]) -> str:
    text = file.read_text().strip()
    if not form.fullmatch(text):
        # Not the text: it may be somebody's secret.
        raise InternalError(
            f"{file} does not hold what it should",
            resolution="Remove it; the next start makes another one, and clients need new exports.",
        )
    return text


def _write(file: Path, text: str, *, mode: int) -> None:
    """Write a file all at once, onto the disk, readable as ``mode`` says from its first moment."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(fd)
    beside.replace(file)
