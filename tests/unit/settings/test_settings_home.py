"""A home: made once, private, locked by one server, and never guessed at."""

import json
import os
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from atoll.server.domain.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from atoll.server.settings.home import find_home, open_home


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Shorter than tmp_path, as a home has to be.
    return tmp_path_factory.mktemp("h") / "home"


def test_a_home_is_made_once(path: Path) -> None:
    made = open_home(path)
    found = open_home(path)

    assert found == made
    assert find_home(path) == made
    assert (found.api_key(), found.secret()) == (made.api_key(), made.secret())
    assert len(made.id) == 6
    assert len(made.secret()) == 32
    assert made.api_key().startswith("e2b_")


def test_nothing_is_made_by_looking(path: Path) -> None:
    assert find_home(path) is None
    assert not path.exists()


def test_homes_differ(path: Path) -> None:
    one, other = open_home(path / "1"), open_home(path / "2")

    assert one.id != other.id
    assert one.api_key() != other.api_key()
    assert one.secret() != other.secret()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777 & ~0o700])
def test_a_home_is_private_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        open_home(path)
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o700
    for secret in ("key", "secret"):
        assert (path / secret).stat().st_mode & 0o777 == 0o600
    assert (path / "run").stat().st_mode & 0o077 == 0


def test_a_home_that_others_could_read_is_closed(path: Path) -> None:
    open_home(path)
    path.chmod(0o755)

    open_home(path)

    assert path.stat().st_mode & 0o777 == 0o700


def test_what_a_cut_off_start_left_out_is_made_by_the_next(path: Path) -> None:
    before = open_home(path)
    (path / "secret").unlink()
    (path / ".secret.123.new").write_text("half")

    after = open_home(path)

    assert (after.id, after.api_key()) == (before.id, before.api_key())
    assert len(after.secret()) == 32


def test_a_cache_is_shared_by_homes_and_nothing_else_is(path: Path) -> None:
    home = open_home(path / "1", cache=path / "cache")

    assert (home.templates, home.runsc) == (path / "cache" / "templates", path / "cache" / "runsc")
    assert home.sandboxes == path / "1" / "sandboxes"


def test_the_address_range_is_kept(path: Path) -> None:
    home = open_home(path)
    assert home.address_range is None

    home.keep_address_range(IPv4Network("10.201.16.0/20"))

    home.keep_dns_port(40053)

    assert open_home(path).address_range == IPv4Network("10.201.16.0/20")
    assert open_home(path).dns_port == 40053
    assert open_home(path).id == home.id


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"id": "../.."}', '{"id": "abcdef", "range": "x"}', "\x00"]
)
def test_a_damaged_identity_is_named_and_kept(path: Path, text: str) -> None:
    open_home(path)
    (path / "home.json").write_text(text)

    with pytest.raises(InternalError, match=r"home\.json"):
        open_home(path)

    assert (path / "home.json").read_text() == text


@pytest.mark.parametrize("name", ["key", "secret"])
def test_a_damaged_secret_is_named_and_not_shown(path: Path, name: str) -> None:
    home = open_home(path)
    (path / name).write_text("my password")

    with pytest.raises(InternalError, match=name) as caught:
        _ = home.api_key() if name == "key" else home.secret()

    assert "my password" not in str(caught.value)


def test_a_path_that_is_too_long_or_no_directory_is_refused(path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="too long"):
        open_home(Path("/tmp") / ("x" * 60))
    path.write_text("a file")
    with pytest.raises(InvalidArgumentError, match="no directory"):
        open_home(path)


def test_one_server_at_a_time(path: Path) -> None:
    home = open_home(path)
    assert home.server_pid() is None
    with home.locked():
        assert home.server_pid() == os.getpid()
        with pytest.raises(FailedPreconditionError, match="runs already") as caught, home.locked():
            pass
        assert str(os.getpid()) in str(caught.value.details)
        # Looking does not take the lock away.
        assert home.server_pid() == os.getpid()
    assert home.server_pid() is None
    with home.locked():
        pass


def test_a_killed_server_leaves_no_lock(path: Path) -> None:
    home = open_home(path)
    program = f"""
import os, signal
from pathlib import Path
from atoll.server.settings.home import find_home
with find_home(Path({str(path)!r})).locked():
    print("locked", flush=True)
    signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "locked\n"
        assert home.server_pid() == server.pid
        server.kill()
    with home.locked():
        assert home.server_pid() == os.getpid()


def test_identity_is_json_for_others_to_read(path: Path) -> None:
    home = open_home(path)

    assert json.loads((path / "home.json").read_text()) == {"id": home.id}
